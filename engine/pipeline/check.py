"""From the YAML to a typed graph: finds every problem that can be known, and reports all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from engine.credentials import ENV, redacted
from engine.errors import EngineError, PipelineError, did_you_mean, wrong_value
from engine.fingerprint.code import code_of
from engine.fingerprint.reachable_code import UnstableCodeError
from engine.llm.types.capability import ruled_out
from engine.operator.declaration.operator import Operator
from engine.operator.field_expressions import with_named_types
from engine.operator.types import DeclarationError, Wrong
from engine.packages.catalogue import AmbiguousNameError, BrokenModuleError, Catalogue, catalogue, full_name
from engine.packages.local_modules import LocalModule, LocalModules, read_local_modules, use_local_modules
from engine.pipeline.datasets import Datasets
from engine.pipeline.file_types import file_types
from engine.pipeline.graph import BoundModel, Pipeline, Source, Step
from engine.pipeline.lookups import find, installed
from engine.pipeline.models import Models
from engine.pipeline.references import References, all_references
from engine.pipeline.untrained_models import unusable_models
from engine.pipeline.variants import expand
from engine.sources.exclusions import Exclusions, read_exclusions
from engine.spec.dot_env import load_dot_env
from engine.spec.matrix import MatrixOptions
from engine.spec.pipeline_spec import PipelineSpec, StepSpec
from engine.spec.read import SHOWN_VALUE, Settings, origin, read_pipeline
from engine.spec.yaml_source import Loc, YamlSource
from registry import Record

if TYPE_CHECKING:
    from registry.query.look_ups import LookUps


def check(
    file: Path,
    settings: Settings = None,
    look_ups: LookUps | None = None,
    *,
    matrix: MatrixOptions = None,
    keys: bool = False,
) -> Pipeline:
    """Load and check a pipeline file. Starts nothing, and writes only what generators accepted, into the user's cache.

    Args:
        file: the YAML.
        settings: override `params`: `name=value` texts, or values by name.
        look_ups: in the registry, for `registry:` references; None if there is none.
        matrix: overrides `matrix`: `name=value,value` texts, or lists of values by name.
        keys: whether the environment variables with API keys must be set, as for a run.

    Raises:
        PipelineError: with every problem found.
    """
    spec, source = read_pipeline(file, settings, matrix)
    if spec is None:
        raise PipelineError(source.problems)
    named = [name for model in spec.models.values() for name in model.environment]
    named += [name for data in spec.datasets.values() for name in ENV.findall(data.path or "")]
    load_dot_env(file.parent, named)
    checker = _Checker(spec, source, file, look_ups, keys=keys)
    pipeline = checker.pipeline()
    if source.problems:
        raise PipelineError(source.problems)
    return pipeline


class _Checker:
    def __init__(self, spec: PipelineSpec, source: YamlSource, file: Path, look_ups: LookUps | None, *, keys: bool) -> None:
        self.keys = keys
        self.spec = spec
        self.source = source
        self.file = file
        self.look_ups = look_ups
        self.modules = self.local_modules()
        self.known: Catalogue = catalogue()
        self.broken_files()
        expanded = expand(spec, source, self.roles_in)
        self.spec, self.seeds = expanded.spec, expanded.seeds
        self.excluded = self.exclusions()
        self.sources: dict[str, Source] = {}
        self.operators: dict[str, Operator | None] = {}
        self.params: dict[str, BaseModel] = {}
        self.types = file_types(self.spec.types, source, self.known.records)
        self.references = References(
            self.spec,
            source,
            look_ups,
            self.known.records,
            self.types,
            self.excluded,
            self.sources,
            self.operators,
            self.params,
        )

    def local_modules(self) -> LocalModules:
        """The files of operators that the pipeline names, ready to be imported."""
        found: dict[str, LocalModule] = {}
        for place, path in enumerate(self.spec.operators):
            try:
                modules = read_local_modules(path, self.file.parent)
            except EngineError as error:
                self.source.problem(str(error), ("operators", place))
                continue
            if twice := found.keys() & {module.name for module in modules}:
                self.source.problem(
                    f"{path}: the module {min(twice)} is listed twice", ("operators", place), "rename one of the files"
                )
            found |= {module.name: module for module in modules}
        use_local_modules(tuple(found.values()))
        return tuple(found.values())

    def broken_files(self) -> None:
        """Report files of operators that cannot be imported, also those that no step uses."""
        places = {Path(path).name.removesuffix(".py"): place for place, path in enumerate(self.spec.operators)}
        for root, error in self.known.load_local():
            self.source.problem(str(error), ("operators", places[root]))

    def exclusions(self) -> Exclusions:
        if self.spec.exclude is None:
            return {}
        try:
            return read_exclusions(self.spec.exclude, self.file.parent)
        except EngineError as error:
            self.source.problem(str(error), ("exclude",))
            return {}

    def roles_in(self, spec: StepSpec) -> tuple[str, ...]:
        """The roles in which a step of the file uses models; what is wrong with it is reported later."""
        try:
            operator = self.known.operators[spec.op]
        except (KeyError, AmbiguousNameError, BrokenModuleError):
            return ()
        try:
            return operator.used_roles(operator.params.model_validate(spec.with_))
        except (ValidationError, DeclarationError):
            return tuple(operator.roles)

    def pipeline(self) -> Pipeline:
        for name in self.spec.steps.keys() & self.spec.datasets.keys():
            self.source.problem(f"{name!r} is the name of both a dataset and a step", ("steps", name), key=True)
        datasets = Datasets(
            self.spec,
            self.source,
            self.file.parent,
            self.look_ups,
            self.known,
            self.types,
            self.references,
            self.excluded,
            self.seeds,
        )
        self.sources |= {name: found for name in self.spec.datasets if (found := datasets.source_of(name))}
        self.operators |= {name: self.operator(name) for name in self.spec.steps}
        self.params |= {name: given for name, op in self.operators.items() if op and (given := self.parameters(name, op))}
        self.operators |= {
            name: op.with_output_names(self.params[name]) for name, op in self.operators.items() if op and name in self.params
        }
        used = {model for name, params in self.params.items() for model in self.used_models(name, params)}
        models = Models(self.spec.models, self.source, self.look_ups, self.references, self.excluded, self.keys)
        bound = models.bind(used & self.spec.models.keys())
        steps = {name: self.step(name, op, bound) for name, op in self.operators.items() if op}
        for name in self.operators.keys() - steps.keys():
            for reference, place in all_references(self.spec.steps[name].in_, ("steps", name, "in")):
                self.references.link(reference, place)
        order = self.order(steps)
        for name, why in unusable_models(steps[name] for name in order if name in self.params and name in steps):
            self.source.problem(why, ("steps", name, "with") if self.spec.steps[name].with_ else ("steps", name, "op"))
        read = {name: source for name, source in self.sources.items() if source.spec.registry is None}
        ordered = {name: steps[name] for name in order if name in steps}
        defaults = self.source.data.get("params") or {}
        return Pipeline(self.spec, self.file, read, ordered, self.excluded, defaults, self.modules, self.seeds)

    def used_models(self, step: str, params: BaseModel) -> list[str]:
        operator = self.operators[step]
        return [self.spec.steps[step].models.get(role, role) for role in operator.used_roles(params)] if operator else []

    def operator(self, name: str) -> Operator | None:
        op = self.spec.steps[name].op
        found = find(self.source, self.known.operators, op, "operator", ("steps", name, "op"), "`engine ops` lists them")
        if found is None:
            return None
        try:
            # Now, while the files still contain the code that was imported.
            installed(self.source, found.name, code_of(full_name(found)).required, ("steps", name, "op"))
        except UnstableCodeError as error:
            self.source.problem(str(error), ("steps", name, "op"))
        given = self.spec.steps[name].in_
        if found.named_inputs and not isinstance(given, dict):
            hint = "give each a name, for example in: {rows: " + (given if isinstance(given, str) else given[0]) + "}"
            self.source.problem(f"{found.name} needs a name for each of its inputs", ("steps", name, "in"), hint)
            return None
        return found.with_inputs(given) if isinstance(given, dict) else found

    def parameters(self, name: str, operator: Operator) -> BaseModel | None:
        try:
            given, wrong = with_named_types(
                operator.params, self.spec.steps[name].with_, self.references.named_type, self.references.type_names
            )
            for each in wrong:
                self.source.problem(f"{operator.name}: {each.text}", ("steps", name, "with", *each.at))
            params = operator.params.model_validate(given)
            operator.used_roles(params)
            operator.with_output_names(params)
        except ValidationError as error:
            for item in error.errors():
                self.parameter(operator, item, ("steps", name))
            return None
        except DeclarationError as error:
            self.source.problem(str(error), ("steps", name, "op"))
            return None
        return params

    def step(self, name: str, declared: Operator, bound: Mapping[str, BoundModel]) -> Step:
        spec, loc = self.spec.steps[name], ("steps", name)
        operator = self.references.operator(name) or declared
        inputs = {}
        for port, references in self.references.ports(spec, operator, loc).items():
            links = []
            for reference, place in references:
                link = self.references.link(reference, place)
                if link is None:
                    continue
                links.append(link)
                needed = operator.inputs[port].record.type_name()
                if links[1:] and declared.inputs[port].record is Record:
                    wanted = f"{reference} is concatenated with {references[0][0]}, which is {needed}, but it"
                else:
                    wanted = f"{operator.name} needs {needed} as {port!r}, but {reference}"
                for why in self.references.mismatches(operator, port, link):
                    self.source.problem(f"{wanted} is {link.type}: {why}", place)
            inputs[port] = tuple(links)
        for role in spec.models.keys() - set(operator.roles):
            hint = did_you_mean(role, operator.roles, _listed(operator, operator.roles, "models"))
            self.source.problem(f"{operator.name} has no role {role!r}", (*loc, "models", role), hint, key=True)
        params = self.params.get(name)
        if params is None:
            return Step(name, spec, operator, inputs, operator.params.model_construct(), {})
        records = {port: each.record for port, each in operator.inputs.items()}
        parameters: Loc = (*loc, "with") if spec.with_ else (*loc, "op")
        if not any(each.open for each in operator.inputs.values()):
            for wrong in self.parameter_problems(operator, params, records):
                self.source.problem(wrong.text, (*parameters, *wrong.at) if spec.with_ else parameters)
        try:
            filled = self.roles(name, operator, params, bound)
        except DeclarationError as error:  # a method of the parameters failed
            self.source.problem(str(error), parameters)
            filled = {}
        return Step(name, spec, operator, inputs, params, filled)

    def parameter_problems(self, operator: Operator, params: BaseModel, records: Mapping[str, type[Record]]) -> list[Wrong]:
        """What the operator's own methods find wrong with its parameters, or what is wrong with these methods."""
        try:
            problems = [Wrong(f"{operator.name}: {text}", at) for text, at in operator.problems(params, records)]
            if not problems:
                operator.examine(params)
                operator.with_outputs(params)
        except DeclarationError as error:
            return [Wrong(str(error))]
        return problems

    def parameter(self, operator: Operator, error: object, loc: Loc) -> None:
        item = dict(error)  # type: ignore[call-overload]
        where: Loc = (*loc, "with", *item["loc"])
        if where in self.source.values and self.source.values[where] in {each.position for each in self.source.problems}:
            return  # a value that YAML should not have is reported once
        shown = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            names = operator.accepted_names()
            hint = did_you_mean(shown, names, _listed(operator, names, "parameters"))
            self.source.problem(f"{operator.name} has no parameter {shown!r}", where, hint, key=True)
        elif item["type"] == "missing":
            self.source.problem(f"{operator.name} needs the parameter {shown!r}", (*loc, "with"))
        else:
            message = wrong_value(item)
            one = f"parameter {shown!r} of {operator.name}: {message} (given: {redacted(repr(item['input']))[:SHOWN_VALUE]})"
            self.source.problem(one if shown else f"{operator.name}: {message}", where, origin(self.source, where))

    def roles(self, name: str, operator: Operator, params: BaseModel, bound: Mapping[str, BoundModel]) -> dict[str, BoundModel]:
        spec, loc = self.spec.steps[name], ("steps", name)
        found = {}
        needs = operator.capabilities(params)
        for role in operator.used_roles(params):
            model = spec.models.get(role, role)
            if model in self.source.broken:
                continue
            if model not in self.spec.models:
                hint = did_you_mean(
                    model, self.spec.models, f"declare it under models:, or set models: {{{role}: ...}} in the step"
                )
                place = (*loc, "models", role) if role in spec.models else (*loc, "op")
                self.source.problem(f"{operator.name} needs a model as {role!r}, but no model is named {model!r}", place, hint)
            elif (wanted := role in operator.encoders) != self.spec.models[model].encodes:
                needed = "an encoder (provider: sentence-transformers)" if wanted else "a chat model"
                given = f"model {model!r} is not (provider: {self.spec.models[model].provider})"
                place = (*loc, "models", role) if role in spec.models else (*loc, "op")
                self.source.problem(f"{operator.name} needs {needed} as {role!r}, but {given}", place)
            elif setting := ruled_out(self.spec.models[model], needs.get(role, ())):
                self.source.problem(f"{operator.name} needs a {role} with {setting.needed}", ("models", model, setting.name))
            elif model in bound:
                found[role] = bound[model]
        return found

    def order(self, steps: Mapping[str, Step]) -> list[str]:
        needs = {name: step.needs & steps.keys() for name, step in steps.items()}
        try:
            return list(TopologicalSorter(needs).static_order())
        except CycleError as error:
            cycle = list(reversed(error.args[1]))
            self.source.problem(
                f"the steps form a cycle: {' -> '.join(cycle)}", ("steps", cycle[0], "in"), "remove one of the references"
            )
            return list(steps)


def _listed(operator: Operator, names: Iterable[str], what: str) -> str:
    """The hint if no name is similar to the given one. Empty if the names are few, because they are shown then."""
    count = len(list(names))
    if not count:
        return f"{operator.name} has no {what}"
    return "" if count <= 20 else f"`engine ops {operator.name}` lists them"
