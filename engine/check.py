"""From the YAML to a typed graph: everything that can be known to be wrong is said here, all at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.exclusion import Exclusions, read_exclusions
from engine.fingerprint import UnstableCodeError
from engine.graph import BoundModel, Link, Pipeline, Source, Step
from engine.keys import code_of
from engine.llm.weights import identify
from engine.operator import SINGLE, Operator
from engine.operators import Catalogue, catalogue
from engine.problems import EngineError, PipelineError, Problem, did_you_mean
from engine.sources import FORMATS, find_files, format_of, identity, source_key
from engine.spec import DatasetSpec, PipelineSpec, StepSpec, read_pipeline
from engine.yaml_source import Loc, YamlSource
from registry import QueryError, Record, Session
from registry.content import row_ids
from registry.lineage import Version
from registry.record import fields_of, missing_fields


def check(file: Path, settings: list[str] | None = None, session: Session | None = None) -> Pipeline:
    """Load and check a pipeline file; nothing is started, nothing is written.

    Args:
        file: the YAML.
        settings: `name=value` texts that override `params`.
        session: the registry, for `registry:` references; None when there is none.

    Raises:
        PipelineError: with every problem that was found.
    """
    spec, source = read_pipeline(file, settings)
    if spec is None:
        raise PipelineError(source.problems)
    checker = _Checker(spec, source, file, session)
    pipeline = checker.pipeline()
    if source.problems:
        raise PipelineError(source.problems)
    return pipeline


class _Checker:
    def __init__(self, spec: PipelineSpec, source: YamlSource, file: Path, session: Session | None) -> None:
        self.spec = spec
        self.source = source
        self.beside = file.parent
        self.file = file
        self.session = session
        self.known: Catalogue = catalogue()
        self.excluded = self.exclusions()

    def exclusions(self) -> Exclusions:
        if self.spec.exclude is None:
            return {}
        try:
            return read_exclusions(self.spec.exclude, self.beside)
        except EngineError as error:
            self.problem(str(error), ("exclude",))
            return {}

    def pipeline(self) -> Pipeline:
        for name in self.spec.steps.keys() & self.spec.datasets.keys():
            self.problem(f"{name!r} names both a dataset and a step", ("steps", name), key=True)
        sources = {name: found for name in self.spec.datasets if (found := self.dataset(name))}
        operators = {name: self.operator(name) for name in self.spec.steps}
        bound = self.bind_models(operators)
        steps = {name: self.step(name, op, sources, operators, bound) for name, op in operators.items() if op}
        for name in operators.keys() - steps.keys():
            for reference, place in _references(self.spec.steps[name].in_, ("steps", name, "in")):
                self.link(reference, place, sources, operators)
        order = self.order(steps)
        used = {name: source for name, source in sources.items() if source.spec.registry is None}
        return Pipeline(self.spec, self.file, used, {name: steps[name] for name in order if name in steps}, self.excluded)

    def problem(self, message: str, loc: Loc, hint: str = "", *, key: bool = False) -> None:
        self.source.problems.append(Problem(message, self.source.position(loc, key=key), hint))

    # -- datasets -----------------------------------------------------------------------------------------------

    def dataset(self, name: str) -> Source | None:
        spec, loc = self.spec.datasets[name], ("datasets", name)
        record = self.known.records.get(spec.type)
        if record is None:
            self.problem(f"no record type named {spec.type!r}", (*loc, "type"), did_you_mean(spec.type, self.known.records))
            return None
        for column, target in spec.rename.items():
            if target not in record.model_fields:
                hint = did_you_mean(target, record.model_fields)
                self.problem(f"{spec.type} has no field {target!r}", (*loc, "rename", column), hint)
        if spec.path is not None:
            self.files(spec.path, (*loc, "path"))
        elif spec.generator is not None:
            self.generator(name, spec, record, loc)
        elif spec.registry is not None:
            self.registry_dataset(spec, record, loc)
        return Source(name, spec, record)

    def files(self, path: str, loc: Loc) -> None:
        try:
            found = find_files(path, self.beside)
        except (OSError, ValueError, ImportError) as error:
            self.problem(f"cannot look up {path}: {error}", loc)
            return
        if not found:
            places = dict.fromkeys(str(place) for place in (Path.cwd(), self.beside.absolute()))
            hint = f"relative paths are looked up in {' and in '.join(places)}"
            if Path(path).is_dir():
                self.problem(f"{path} is a folder", loc, f"name its files, for instance {path.rstrip('/')}/*.jsonl")
            else:
                self.problem(f"there is no file {path}", loc, hint)
        for file in found:
            if format_of(file) is None:
                self.problem(f"cannot tell the format of {file}", loc, f"name it .{', .'.join(FORMATS)} (or with .gz)")

    def registry_dataset(self, spec: DatasetSpec, record: type[Record], loc: Loc) -> None:
        if spec.limit or spec.rename:
            self.problem("limit and rename do not apply to a registry version, which is used as it is", loc)
        link = self.registry_link(str(spec.registry), str(spec.registry), (*loc, "registry"))
        if link is None:
            return
        for why in missing_fields(record, dict(link.fields)):
            self.problem(f"{spec.registry} is {link.type}, not {spec.type}: {why}", (*loc, "registry"))

    def generator(self, dataset: str, spec: DatasetSpec, record: type[Record], loc: Loc) -> None:
        name, _, task = (spec.generator or "").partition("/")
        generator = self.known.generators.get(name)
        if generator is None:
            hint = did_you_mean(name, self.known.generators)
            self.problem(f"no generator named {name!r}", (*loc, "generator"), hint)
            return
        excluded = self.excluded.get(f"{self.spec.name}/{dataset}", frozenset())
        known = identity(spec, record, self.beside, self.spec.seed, excluded)
        if known and self.session and self.session.has_step(source_key(known)):
            return  # it gave rows before; the generator's package need not be loaded
        for text in generator.check(task, spec.with_):
            self.problem(text, (*loc, "with") if spec.with_ else (*loc, "generator"))

    # -- models -------------------------------------------------------------------------------------------------

    def bind_models(self, operators: Mapping[str, Operator | None]) -> dict[str, BoundModel]:
        """Each model that a step uses; what is wrong with it is said once."""
        used = {self.spec.steps[n].models.get(role, role) for n, op in operators.items() if op for role in op.roles}
        bound = {}
        for name in sorted(used & self.spec.models.keys()):
            spec, loc = self.spec.models[name], ("models", name)
            weights = None
            if spec.provider == "transformers":
                try:
                    weights = identify(spec.model, self.session)
                except EngineError as error:
                    self.problem(str(error), (*loc, "model"))
                    continue
                if self.excluded and self.session and weights.source == "registry":
                    self.no_excluded(self.session, self.session.lineage.find(weights.location), (*loc, "model"))
            elif spec.api_key_env and not os.environ.get(spec.api_key_env):
                hint = f"export {spec.api_key_env}=..."
                self.problem(f"the environment variable {spec.api_key_env} is not set", (*loc, "api_key_env"), hint)
            elif spec.base_url and not spec.base_url.startswith(("http://", "https://")):
                self.problem(f"{spec.base_url!r} is not an http:// or https:// address", (*loc, "base_url"))
            bound[name] = BoundModel(spec, weights)
        return bound

    # -- steps --------------------------------------------------------------------------------------------------

    def operator(self, name: str) -> Operator | None:
        op = self.spec.steps[name].op
        found = self.known.operators.get(op)
        if found is None:
            hint = did_you_mean(op, self.known.operators, "`engine ops` lists them")
            self.problem(f"no operator named {op!r}", ("steps", name, "op"), hint)
            return None
        try:
            code_of(op)  # now, while what was imported is what stands in the files
        except UnstableCodeError as error:
            self.problem(str(error), ("steps", name, "op"))
        return found

    def step(
        self,
        name: str,
        operator: Operator,
        sources: Mapping[str, Source],
        operators: Mapping[str, Operator | None],
        bound: Mapping[str, BoundModel],
    ) -> Step:
        spec, loc = self.spec.steps[name], ("steps", name)
        params = operator.params.model_construct()
        try:
            params = operator.params.model_validate(spec.with_)
        except ValidationError as error:
            for item in error.errors():
                self.parameter(operator, item, loc)
        inputs = {}
        for port, references in self.ports(spec, operator, loc).items():
            links = []
            for reference, place in references:
                link = self.link(reference, place, sources, operators)
                if link is None:
                    continue
                links.append(link)
                for why in missing_fields(operator.inputs[port].record, dict(link.fields)):
                    needed = operator.inputs[port].record.type_name()
                    self.problem(f"{operator.name} needs {needed} as {port!r}, but {reference} is {link.type}: {why}", place)
            inputs[port] = tuple(links)
        return Step(name, spec, operator, inputs, params, self.roles(name, operator, bound))

    def parameter(self, operator: Operator, error: object, loc: Loc) -> None:
        item = dict(error)  # type: ignore[call-overload]
        where: Loc = (*loc, "with", *item["loc"])
        shown = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            hint = did_you_mean(shown, operator.params.model_fields, f"{operator.name} has no parameters")
            self.problem(f"{operator.name} has no parameter {shown!r}", where, hint, key=True)
        elif item["type"] == "missing":
            self.problem(f"{operator.name} needs the parameter {shown!r}", (*loc, "with"))
        else:
            message = item["msg"].removeprefix("Value error, ")
            self.problem(f"parameter {shown!r} of {operator.name}: {message} (given: {item['input']!r})", where)

    def ports(self, spec: StepSpec, operator: Operator, loc: Loc) -> dict[str, list[tuple[str, Loc]]]:
        """The references of each input, with their places."""
        given, place = spec.in_, (*loc, "in")
        if not isinstance(given, dict):
            if len(operator.inputs) > 1:
                names = ", ".join(operator.inputs)
                self.problem(f"{operator.name} has several inputs", place, f"give each by name: in: {{...}} with {names}")
                return {}
            [port] = operator.inputs
            return {port: _listed(given, place)}
        for port in given.keys() - operator.inputs.keys():
            self.problem(
                f"{operator.name} has no input {port!r}", (*place, port), did_you_mean(port, operator.inputs), key=True
            )
        for port in operator.inputs.keys() - given.keys():
            record = operator.inputs[port].record.type_name()
            self.problem(f"{operator.name} needs the input {port!r} ({record})", place)
        return {port: _listed(given[port], (*place, port)) for port in operator.inputs if port in given}

    def link(
        self, reference: str, loc: Loc, sources: Mapping[str, Source], operators: Mapping[str, Operator | None]
    ) -> Link | None:
        if reference.startswith("registry:"):
            return self.registry_link(reference.removeprefix("registry:"), reference, loc)
        name, _, output = reference.partition(".")
        if name in self.source.broken:
            return None
        if name in self.spec.datasets and not output:
            source = sources.get(name)
            if source is None:
                return None  # its own problem is reported where it stands
            if source.spec.registry is not None:
                return self.registry_link(source.spec.registry, reference, ("datasets", name, "registry"))
            record = source.record
            return Link("dataset", name, "", reference, record.type_name(), fields_of(record.arrow_schema()))
        if name in self.spec.steps:
            return self.step_link(name, output, reference, loc, operators[name])
        known = [*self.spec.datasets, *_outputs(operators)]
        self.problem(f"no dataset or step {reference!r}", loc, did_you_mean(reference, known))
        return None

    def step_link(self, name: str, output: str, reference: str, loc: Loc, operator: Operator | None) -> Link | None:
        if operator is None:
            return None
        if not output:
            if len(operator.outputs) > 1:
                choices = ", ".join(f"{name}.{each}" for each in operator.outputs)
                self.problem(f"step {name!r} has several outputs", loc, f"say which: {choices}")
                return None
            [output] = operator.outputs
        record = operator.outputs.get(output)
        if record is None:
            self.problem(f"step {name!r} has no output {output!r}", loc, did_you_mean(output, operator.outputs))
            return None
        return Link("step", name, output, reference, record.type_name(), fields_of(record.arrow_schema()))

    def registry_link(self, target: str, label: str, loc: Loc) -> Link | None:
        if self.session is None:
            self.problem(f"there is no registry yet, so no {target}", loc)
            return None
        try:
            name, version = self.session.resolve(target)
        except QueryError as error:
            self.problem(str(error), loc)
            return None
        if self.excluded:
            self.no_excluded(self.session, Version(name, version), loc)
        kind, fields = self.session.shape(name, version)
        return Link("registry", name, "", label, kind, fields, version)

    def no_excluded(self, session: Session, target: Version, loc: Loc) -> None:
        """Neither a fixed version nor anything that it was made from may have led rows on the exclusion list into it."""
        above = [Version(each["name"], each["version"]) for each in session.lineage.versions(str(target), "up")]
        for version in (target, *above):
            ids = self.excluded.get(version.name)
            if not ids:
                continue
            rows = [row for row, each in enumerate(row_ids(session.table(str(version)))) if each in ids]
            if not any(found.version == target for found in session.lineage.walk(version, rows, "down").reached):
                continue
            said = f"has {len(rows)}" if version == target else f"was made from {len(rows)} of {version}'s"
            hint = "run the pipeline that makes it with the same exclusion list, then name its new version here"
            self.problem(f"{target} {said} rows that are on the exclusion list", loc, hint)

    def roles(self, name: str, operator: Operator, bound: Mapping[str, BoundModel]) -> dict[str, BoundModel]:
        spec, loc = self.spec.steps[name], ("steps", name)
        for role in spec.models.keys() - set(operator.roles):
            hint = did_you_mean(role, operator.roles, f"{operator.name} uses no model")
            self.problem(f"{operator.name} has no role {role!r}", (*loc, "models", role), hint, key=True)
        found = {}
        for role in operator.roles:
            model = spec.models.get(role, role)
            if model in self.source.broken:
                continue
            if model not in self.spec.models:
                hint = did_you_mean(model, self.spec.models, f"declare it under models:, or say models: {{{role}: ...}}")
                place = (*loc, "models", role) if role in spec.models else (*loc, "op")
                self.problem(f"{operator.name} needs a model as {role!r}, and there is none named {model!r}", place, hint)
            elif model in bound:
                found[role] = bound[model]
        return found

    def order(self, steps: Mapping[str, Step]) -> list[str]:
        needs = {name: step.needs & steps.keys() for name, step in steps.items()}
        try:
            return list(TopologicalSorter(needs).static_order())
        except CycleError as error:
            cycle = list(reversed(error.args[1]))
            self.problem(
                f"the steps form a cycle: {' -> '.join(cycle)}", ("steps", cycle[0], "in"), "remove one of the references"
            )
            return list(steps)


def _listed(given: str | list[str], loc: Loc) -> list[tuple[str, Loc]]:
    if isinstance(given, str):
        return [(given, loc)]
    return [(reference, (*loc, place)) for place, reference in enumerate(given)]


def _references(given: Any, loc: Loc) -> list[tuple[str, Loc]]:
    """All references of a step with their places, whatever inputs they are for."""
    if not isinstance(given, dict):
        return _listed(given, loc)
    return [reference for port, inner in given.items() for reference in _listed(inner, (*loc, port))]


def _outputs(operators: Mapping[str, Operator | None]) -> list[str]:
    names = []
    for step, operator in operators.items():
        outputs = list(operator.outputs) if operator else []
        names += [step] if outputs in ([], [SINGLE]) or len(outputs) == 1 else [f"{step}.{output}" for output in outputs]
    return names
