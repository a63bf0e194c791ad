"""Resolves the references in a pipeline file (`dataset`, `step`, `step.output`, `registry:NAME@V`) and their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from engine.errors import did_you_mean
from engine.operator.declaration.operator import Operator
from engine.operator.types import SINGLE, DeclarationError
from engine.packages.catalogue import AmbiguousNameError, BrokenModuleError
from engine.pipeline.graph import Link, Source
from engine.sources.exclusions import Exclusions
from engine.spec.pipeline_spec import PipelineSpec, StepSpec
from engine.spec.variant_names import split_name
from engine.spec.yaml_source import Loc, YamlSource
from registry import Record
from registry.counted import counted
from registry.errors import QueryError
from registry.records.described import DescribedType, described
from registry.records.schema import described_fields, fields_of_type, missing_fields

if TYPE_CHECKING:
    from registry import Session
    from registry.lineage.targets import Version
    from registry.query.look_ups import LookUps

Reference = tuple[str, Loc]
"""A reference as written, and its position."""


class References:
    """Resolves the references of one pipeline. Problems are added to the source.

    Args:
        spec, source: the pipeline file.
        look_ups: in the registry; None if there is none.
        records: record types of packages by name.
        types: the types of the file.
        excluded: rows that must not be an origin of any version that is used.
        sources: the file's datasets.
        operators, params: the operators and parameters of its steps. What is missing or None is reported already.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        source: YamlSource,
        look_ups: LookUps | None,
        records: Mapping[str, type[Record]],
        types: Mapping[str, type[Record]],
        excluded: Exclusions,
        sources: Mapping[str, Source],
        operators: Mapping[str, Operator | None],
        params: Mapping[str, BaseModel],
    ) -> None:
        self.spec = spec
        self.source = source
        self.look_ups = look_ups
        self.records = records
        self.types = types
        self.excluded = excluded
        self.sources = sources
        self.operators = operators
        self.params = params
        self._typed: dict[str, Operator | None] = {}
        self._quiet = False

    def operator(self, step: str) -> Operator | None:
        """A step's operator with the types of its open inputs and outputs filled in; None if it or the inputs' are unknown.

        Outputs stay open if the parameters do not fit.
        """
        if step not in self._typed:
            declared = self.operators[step]
            self._typed[step] = None  # also for a step that depends on itself; `check` reports the cycle
            self._typed[step] = self._with_types(step, declared) if declared else None
        return self._typed[step]

    def _with_types(self, step: str, operator: Operator) -> Operator | None:
        records: dict[str, type[Record]] = {}
        for port, references in _by_port(self.spec.steps[step], operator, ("steps", step, "in")).items():
            if not operator.inputs[port].open:
                continue
            before, self._quiet = self._quiet, True  # problems are reported once, when the step's inputs are checked
            links = [link for reference, place in references if (link := self.link(reference, place))]
            self._quiet = before
            if not links or isinstance(record := self.record(links[0]), str):
                return None
            records[port] = record
        typed, params = operator.typed(records), self.params.get(step)
        if not typed.open_outputs or params is None:
            return typed
        try:
            inputs = {name: port.record for name, port in typed.inputs.items()}
            return typed if typed.problems(params, inputs) else typed.with_outputs(params)
        except DeclarationError:  # reported with the step's parameters
            return typed

    def ports(self, spec: StepSpec, operator: Operator, loc: Loc) -> dict[str, list[Reference]]:
        """The references of each input of a step, with their positions."""
        given, place = spec.in_, (*loc, "in")
        if not isinstance(given, dict):
            if len(operator.required) > 1:
                names = ", ".join(operator.inputs)
                self._problem(f"{operator.name} has several inputs", place, f"name each of them: in: {{...}} with {names}")
        else:
            for port in given.keys() - operator.inputs.keys():
                hint = did_you_mean(port, operator.inputs)
                self._problem(f"{operator.name} has no input {port!r}", (*place, port), hint, key=True)
            for port in set(operator.required) - given.keys():
                record = operator.inputs[port].record.type_name()
                self._problem(f"{operator.name} needs the input {port!r} ({record})", place)
        return _by_port(spec, operator, place)

    def link(self, reference: str, loc: Loc) -> Link | None:
        """What a reference refers to; None if it is wrong, which is reported."""
        if reference.startswith("registry:"):
            return self.registry_link(reference.removeprefix("registry:"), reference, loc)
        variant, own = split_name(reference)
        name, _, output = own.partition(".")
        name = f"{variant}/{name}" if variant else name
        if name in self.source.broken:
            return None
        if name in self.spec.datasets and not output:
            source = self.sources.get(name)
            if source is None:
                return None  # the dataset's own problem is reported
            if source.spec.registry is not None:
                return self.registry_link(source.spec.registry, reference, ("datasets", name, "registry"))
            record = source.record
            return Link("dataset", name, "", reference, record.type_name(), fields_of_type(record), record=record)
        if name in self.spec.steps:
            return self._step_link(name, output, reference, loc)
        known = dict.fromkeys(split_name(each)[1] for each in (*self.spec.datasets, *self._outputs()))
        self._problem(f"no dataset or step {reference!r}", loc, did_you_mean(reference, known))
        return None

    def _step_link(self, name: str, output: str, reference: str, loc: Loc) -> Link | None:
        declared = self.operators[name]
        if declared is None:
            return None
        if declared.names_outputs:
            return None  # the parameters, which name the outputs, have a problem that is reported
        if not output:
            if len(declared.outputs) > 1:
                choices = ", ".join(f"{name}.{each}" for each in declared.outputs)
                self._problem(f"step {name!r} has several outputs", loc, f"choose one: {choices}")
                return None
            [output] = declared.outputs
        if output not in declared.outputs:
            self._problem(f"step {name!r} has no output {output!r}", loc, did_you_mean(output, declared.outputs))
            return None
        follows = output in declared.like or output in declared.open_outputs
        record = ((self.operator(name) if follows else None) or declared).outputs[output]
        if record is Record:  # unknown, because of a problem that is reported elsewhere
            return Link("step", name, output, reference, record.type_name(), {})
        return Link("step", name, output, reference, record.type_name(), fields_of_type(record), record=record)

    def registry_link(self, target: str, label: str, loc: Loc) -> Link | None:
        """A fixed version in the registry."""
        if self.look_ups is None:
            self._problem(f"there is no registry yet, so there is no {target}", loc)
            return None
        try:
            version = self.look_ups.resolve(target)
            kind, fields = self.look_ups.shape(*version)
        except QueryError as error:
            self._problem(str(error), loc)
            return None
        if self.excluded:
            self.no_excluded(self.look_ups.session(), version, loc)
        return Link("registry", version.name, "", label, kind, fields, version.number)

    def no_excluded(self, session: Session, target: Version, loc: Loc) -> None:
        """Report a fixed version that contains excluded rows, or rows that were made from them."""
        from registry.lineage.targets import Version
        from registry.records.content import row_ids

        above = [Version(each["name"], each["version"]) for each in session.lineage.versions(str(target), "up")]
        for version in (target, *above):
            ids = self.excluded.get(version.name)
            if not ids:
                continue
            rows = [row for row, each in enumerate(row_ids(session.table(str(version)))) if each in ids]
            if not any(found.version == target for found in session.lineage.walk(version, rows, "down").reached):
                continue
            count = counted(rows, "row")
            what = f"contains {count}" if version == target else f"was made from {count} of {version}"
            hint = "run the pipeline that produces it with the same exclusion list, then use the new version here"
            self._problem(f"{target} {what} on the exclusion list", loc, hint)

    def mismatches(self, operator: Operator, port: str, link: Link) -> list[str]:
        """Why a link's rows do not fit an input; empty if they do."""
        needed = operator.inputs[port].record
        if link.type == Record.type_name():
            return []
        if needed is Record:  # its type is unknown
            record = self.record(link)
            return [record] if isinstance(record, str) else []
        return missing_fields(needed, dict(link.fields))

    def record(self, link: Link) -> type[Record] | str:
        """The record type of a link's rows; a text that says why when it cannot be known."""
        if link.record:
            return link.record
        if not link.fields:
            return "its type is not known"
        try:
            return record_of(link.type, link.fields, self.records)
        except BrokenModuleError as error:
            return str(error)

    def named_type(self, name: str) -> DescribedType | None:
        """What a type that a parameter names consists of; None if there is none of that name."""
        if name in self.spec.types and name not in self.types:
            return DescribedType(kind="str")  # the type's own problem is reported
        found = self.types.get(name) or self.records.get(name)
        return DescribedType(kind="struct", fields=described(found).fields) if found else None

    def type_names(self) -> list[str]:
        """The names that parameters can use."""
        return [*self.types, *self.records]

    def _problem(self, message: str, loc: Loc, hint: str = "", *, key: bool = False) -> None:
        if not self._quiet:
            self.source.problem(message, loc, hint, key=key)

    def _outputs(self) -> list[str]:
        names = []
        for step, operator in self.operators.items():
            outputs = list(operator.outputs) if operator else []
            names += [step] if outputs in ([], [SINGLE]) or len(outputs) == 1 else [f"{step}.{output}" for output in outputs]
        return names


def record_of(name: str, fields: Mapping[str, str], records: Mapping[str, type[Record]]) -> type[Record]:
    """The record type of a version's rows: the known one of its name, if it has these fields, else one that is made of them.

    Args:
        name: the name of the type.
        fields: {name: label}, as stored with the version.
        records: known types by name.

    Raises:
        BrokenModuleError: the module that defines the type cannot be imported.
    """
    try:
        found = records.get(name)
        if found and fields.keys() <= found.model_fields.keys() and not missing_fields(found, dict(fields)):
            return found
    except AmbiguousNameError:
        pass
    # A type of a pipeline file, of a step, or of a package that is not installed or has changed.
    return described_fields(name, fields).record()


def all_references(given: Any, loc: Loc) -> list[Reference]:
    """All references of a step with their positions, for all of its inputs."""
    if not isinstance(given, dict):
        return _listed(given, loc)
    return [reference for port, inner in given.items() for reference in _listed(inner, (*loc, port))]


def _by_port(spec: StepSpec, operator: Operator, place: Loc) -> dict[str, list[Reference]]:
    if not isinstance(spec.in_, dict):
        return {port: _listed(spec.in_, place) for port in operator.required if len(operator.required) == 1}
    return {port: _listed(spec.in_[port], (*place, port)) for port in operator.inputs if port in spec.in_}


def _listed(given: str | list[str], loc: Loc) -> list[Reference]:
    if isinstance(given, str):
        return [(given, loc)]
    return [(reference, (*loc, place)) for place, reference in enumerate(given)]
