"""Expands the matrix of a pipeline: each model, dataset and step once for each combination of the parameters it depends on.

A part depends on a parameter if it refers to it, or if something that it reads or uses does. What never changes a result
(resources, limits, prices) does not count: such keys have the values of the first variant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from engine.llm.types.model_spec import STEP_PREFIX, ModelSpec
from engine.spec.matrix import combinations
from engine.spec.pipeline_spec import DatasetSpec, PipelineSpec, Seed, StepSpec
from engine.spec.read import entry_problems, filled, params_in
from engine.spec.variant_names import Combination, named
from engine.spec.yaml_source import YamlSource

MOST_STEPS = 5000
"""The maximum of steps, counting each variant of a step."""

Section = Literal["models", "datasets", "steps"]

Entry = tuple[Section, str]
"""A model, dataset or step, by its name in the file."""

_SPECS: dict[Section, type[BaseModel]] = {"models": ModelSpec, "datasets": DatasetSpec, "steps": StepSpec}

_SEED = TypeAdapter[int](Seed)

_NEVER_COUNTS: dict[Section, frozenset[str]] = {
    "models": frozenset(
        {"api_key_env", "limits", "price", "budget_usd", "max_calls", "mode", "timeout", "retries", "batch_size"}
    ),
    "datasets": frozenset(),
    "steps": frozenset({"resources", "max_reject_ratio"}),
}
"""The keys of each section that are never part of a cache key."""

Roles = Callable[[StepSpec], Sequence[str]]
"""The roles in which a step uses models."""


@dataclass(frozen=True)
class Expanded:
    """A pipeline whose models, datasets and steps are those of all variants, by their names in the variants.

    `seeds` has the seed of each dataset and step, if the matrix varies it.
    """

    spec: PipelineSpec
    seeds: Mapping[str, int] = field(default_factory=dict)


def expand(spec: PipelineSpec, source: YamlSource, roles: Roles) -> Expanded:
    """Expand a pipeline's matrix. Problems are added to the source.

    Args:
        spec: the first variant.
        source: the file.
        roles: the roles of a step's operator.
    """
    return _Expansion(spec, source, roles).expanded() if spec.matrix else Expanded(spec)


class _Expansion:
    def __init__(self, spec: PipelineSpec, source: YamlSource, roles: Roles) -> None:
        self.spec = spec
        self.source = source
        self.roles = roles
        self.matrix = spec.matrix
        self.first = {name: values[0] for name, values in spec.matrix.items()}
        self.given: dict[Entry, Any] = {
            **{("models", name): each for name, each in spec.models.items()},
            **{("datasets", name): each for name, each in spec.datasets.items()},
            **{("steps", name): each for name, each in spec.steps.items()},
        }
        self.of_seed = params_in(source.data.get("seed")) & self.matrix.keys()
        self.seeds: dict[tuple[Any, ...], int] = {}
        self.made: dict[tuple[Entry, tuple[Any, ...]], Any] = {}
        self.own = {entry: self.params_of(entry) for entry in self.given}

    def expanded(self) -> Expanded:
        self.check_use()
        if self.too_many(self.own):
            return Expanded(self.spec)
        uses = {entry: self.used_by(entry) for entry in self.given}
        depends = dict(self.own)
        while (
            wider := {entry: own.union(*(depends[each] for each in uses[entry])) for entry, own in depends.items()}
        ) != depends:
            depends = wider
        if self.too_many(depends):
            return Expanded(self.spec)
        sections: dict[str, dict[str, Any]] = {section: {} for section in _SPECS}
        seeds: dict[str, int] = {}
        for entry in self.given:
            for combination in combinations(self.matrix, depends[entry]):
                name = named(combination, entry[1])
                self.source.variants |= {name: entry[1]} if combination else {}
                made = self.variant(entry, combination)
                if made is None:
                    self.source.broken.add(name)
                    continue
                sections[entry[0]][name] = self.linked(entry, made, combination, depends)
                if self.of_seed and entry[0] != "models":
                    seeds[name] = self.seed(combination)
        return Expanded(self.spec.model_copy(update=sections), seeds)

    def too_many(self, depends: Mapping[Entry, frozenset[str]]) -> bool:
        """Whether there would be more steps than allowed, which is reported."""
        sizes = {name: len(values) for name, values in self.matrix.items()}
        count = sum(math.prod(sizes[name] for name in depends[entry]) for entry in self.given if entry[0] == "steps")
        if count > MOST_STEPS:
            hint = f"the maximum is {MOST_STEPS:,}; leave out values"
            self.problem(f"the matrix makes {count:,} steps", "matrix", hint=hint, key=True)
        return count > MOST_STEPS

    def check_use(self) -> None:
        """Report parameters of the matrix that change nothing, or that stand where they cannot be varied."""
        counted = self.of_seed.union(*self.own.values())
        for name in self.matrix:
            elsewhere = [
                key
                for key, part in self.source.data.items()
                if key not in (*_SPECS, "seed", "params", "matrix") and name in params_in(part)
            ]
            for key in elsewhere:
                what = f"the matrix varies {name}, and {key} must be the same in all variants"
                self.problem(what, key, hint="refer to another parameter")
            if name not in counted and not elsewhere:
                what = f"the matrix varies {name}, but no result depends on it"
                hint = f"refer to ${{params.{name}}} in a model, dataset or step, or remove it from the matrix"
                self.problem(what, "matrix", name, hint=hint, key=True)

    def problem(self, what: str, *loc: str, hint: str = "", key: bool = False) -> None:
        self.source.problem(what, loc, hint, key=key)

    def params_of(self, entry: Entry) -> frozenset[str]:
        """The parameters of the matrix that an entry itself refers to."""
        section, name = entry
        data = self.source.data[section][name]
        parts = (
            {key: part for key, part in data.items() if key not in _NEVER_COUNTS[section]} if isinstance(data, dict) else data
        )
        found = params_in(parts) & self.matrix.keys()
        draws = section == "steps" or (section == "datasets" and self.given[entry].generator is not None)
        return frozenset(found | self.of_seed if draws else found)

    def used_by(self, entry: Entry) -> set[Entry]:
        """What an entry refers to in any variant."""
        found: set[Entry] = set()
        for combination in combinations(self.matrix, self.own[entry]):
            made = self.variant(entry, combination)
            found |= {each for each in self.uses(entry, made) if each in self.given} if made else set()
        return found

    def uses(self, entry: Entry, made: Any) -> Iterator[Entry]:
        if entry[0] == "models" and made.made_by is not None:
            yield "steps", made.made_by.partition(".")[0]
        if entry[0] == "steps":
            for reference in _references(made.in_):
                name = reference.partition(".")[0]
                yield "datasets", name
                yield "steps", name
            for role in self.roles(made):
                yield "models", made.models.get(role, role)

    def variant(self, entry: Entry, combination: Combination) -> Any:
        """An entry with the values of a combination; None if they do not fit, which is reported."""
        own = {name: value for name, value in combination.items() if name in self.own[entry]}
        if not own:
            return self.given[entry]
        key = (entry, tuple(own.items()))
        if key not in self.made:
            section, name = entry
            data = filled(self.source, {**self.spec.params, **self.first, **own}, (section, name))
            try:
                self.made[key] = _SPECS[section].model_validate(data)
            except ValidationError as error:
                self.source.problems += entry_problems(self.source, (section, name), error)
                self.made[key] = None
        return self.made[key]

    def seed(self, combination: Combination) -> int:
        own = {name: value for name, value in combination.items() if name in self.of_seed}
        key = tuple(own.items())
        if key not in self.seeds:
            seed = filled(self.source, {**self.spec.params, **self.first, **own}, ("seed",))
            try:
                self.seeds[key] = _SEED.validate_python(seed)
            except ValidationError as error:
                self.source.problems += entry_problems(self.source, ("seed",), error)
                self.seeds[key] = 0
        return self.seeds[key]

    def linked(self, entry: Entry, made: Any, combination: Combination, depends: Mapping[Entry, frozenset[str]]) -> Any:
        """An entry's variant, with references to the variants of what it refers to."""

        def there(other: Entry) -> str:
            return named({name: combination[name] for name in self.matrix if name in depends[other]}, other[1])

        def link(reference: str) -> str:
            name, dot, output = reference.partition(".")
            known = next((each for each in (("datasets", name), ("steps", name)) if each in depends), None)
            return f"{there(known)}{dot}{output}" if known else reference  # type: ignore[arg-type]

        if not combination:
            return made
        if entry[0] == "models" and made.made_by is not None:
            return made.model_copy(update={"model": f"{STEP_PREFIX}{link(made.made_by)}"})
        if entry[0] == "steps":
            models = {role: made.models.get(role, role) for role in self.roles(made)}
            models = {role: there(("models", name)) for role, name in models.items() if ("models", name) in depends}
            return made.model_copy(update={"in_": _linked(made.in_, link), "models": {**made.models, **models}})
        return made


def _references(given: Any) -> Iterator[str]:
    if isinstance(given, str):
        yield given
    for each in given.values() if isinstance(given, dict) else given if isinstance(given, list) else ():
        yield from _references(each)


def _linked(given: Any, link: Callable[[str], str]) -> Any:
    if isinstance(given, str):
        return given if given.startswith("registry:") else link(given)
    if isinstance(given, dict):
        return {port: _linked(inner, link) for port, inner in given.items()}
    return [_linked(each, link) for each in given]
