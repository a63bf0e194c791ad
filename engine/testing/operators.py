"""Calls an operator on records, as a worker would."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from engine.errors import PipelineError, Problem, did_you_mean
from engine.jobs.messages import WHOLE, InputVersion, Job, ModelBinding, Partition, Receipt, Slice
from engine.llm.chat import ChatModel
from engine.llm.client import ModelClient
from engine.llm.encoder import Encoder
from engine.llm.journal.answers import Journal
from engine.llm.limits.governor import Governor
from engine.operator.declaration.operator import Operator
from engine.own_loop import on_own_loop
from engine.testing.scripted import ScriptedEncoder, ScriptedModel
from engine.worker.attachments import FileCollector
from engine.worker.operation import Operation, Scope
from engine.worker.shapes.batches import run_batch
from engine.worker.shapes.rows import FailedRowsError, run_rows
from engine.worker.shapes.whole import run_whole
from registry import DataObject, Decision, Metric, Record, Registry, VersionRef

Rows = Iterable[Record | Mapping[str, Any]]
Scripted = ScriptedModel | ScriptedEncoder


@dataclass(frozen=True)
class Rejected:
    """A row that the operator rejected, or (`ctx.reject`) a part of what it made of it, and the reason."""

    row: Record
    reason: str


@dataclass(frozen=True)
class OperatorResult:
    """What an operator made of records.

    Attributes:
        outputs: the rows of each output, in order.
        sources: for each row of each output, the rows that it was made from, as (input, number) with numbers from 0. Empty
            where the operator does not say.
        rejects: rejected rows, in order.
        filtered: the number of rows that it yielded nothing for.
        metrics: counters, reported numbers, and what `finish` computed.
        notes: texts of `ctx.note`.
    """

    outputs: Mapping[str, list[Record]]
    sources: Mapping[str, list[tuple[tuple[str, int], ...]]]
    rejects: tuple[Rejected, ...]
    filtered: int
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> list[Any]:
        """The rows of the only output; ValueError if there are several."""
        if len(self.outputs) != 1:
            raise ValueError(f"the operator has the outputs {', '.join(self.outputs)}; use outputs[NAME]")
        return next(iter(self.outputs.values()))

    def metric(self, name: str, slice: str = "") -> float:
        """The value of a metric; KeyError if it was not reported."""
        found = [each.value for each in self.metrics if (each.metric, each.slice) == (name, slice)]
        if not found:
            reported = ", ".join(sorted({f"{each.metric!r}, {each.slice!r}" for each in self.metrics})) or "nothing"
            raise KeyError(f"{name!r}, {slice!r} was not reported; reported: {reported}")
        return found[-1]


def run_operator(
    operator: Operator,
    rows: Rows = (),
    /,
    *,
    with_: Mapping[str, Any] | BaseModel | None = None,
    models: Mapping[str, Scripted] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    decisions: Sequence[Decision] = (),
    seed: int = 0,
    **inputs: Rows,
) -> OperatorResult:
    """Call an operator on records. It can be called in a test with or without a running event loop.

    Args:
        operator: the decorated function.
        rows: the rows of its first input: records, or dicts with their fields.
        with_: parameters, as under `with:` in a pipeline, or an object of the operator's `Params`.
        models: the scripted model for each role.
        groups: for a `Grouped` input, the number of each row's group (default: each row is a group of its own).
        decisions: the decisions of people about the rows, for an operator that gets `Reviews`.
        seed: the pipeline's seed.
        inputs: rows of the other inputs, by name.

    Raises:
        PipelineError: parameters are wrong for these inputs, or an input or a role is missing or unknown.
        pydantic.ValidationError: a parameter or a row does not fit its type.
        OperatorError: the operator raised an exception (the cause), or yielded what it did not declare.
        StepError: the operator raised it.
    """
    given = _inputs(operator, rows, inputs)
    operator = operator.with_inputs(given)
    records = {name: list(each) for name, each in given.items()}
    typed = operator.typed({name: _type_of(operator, name, each) for name, each in records.items()})
    tables = {name: typed.inputs[name].record.to_table(_valid(typed, name, each)) for name, each in records.items()}
    params = with_ if isinstance(with_, BaseModel) else typed.params.model_validate(dict(with_ or {}))
    scripts = _roles(typed, params, models or {})
    typed.examine(params)
    if problems := typed.problems(params, {name: port.record for name, port in typed.inputs.items()}):
        raise PipelineError([Problem(f"{operator.name}: {wrong.text}") for wrong in problems])
    typed = typed.with_outputs(params)
    with tempfile.TemporaryDirectory(prefix="engine-test-") as folder:
        registry = Registry(folder)
        call = _Call(typed, params, tables, scripts, {**(groups or {})}, decisions, seed, registry)
        try:
            receipt = on_own_loop(call.run)
        except FailedRowsError as failed:
            _raise_failure_of(scripts)
            raise failed.cause from failed.cause.__cause__
        _raise_failure_of(scripts)
        return _result(typed, params, tables, receipt, registry)


@dataclass(frozen=True)
class _Call:
    operator: Operator
    params: BaseModel
    tables: Mapping[str, pa.Table]
    scripts: Mapping[str, Scripted]
    groups: Mapping[str, Sequence[int]]
    decisions: Sequence[Decision]
    seed: int
    registry: Registry

    async def run(self) -> Receipt:
        """Run everything as one partition."""
        models = _Models(self.scripts, Journal(self.registry.journal))
        stored = {name: self.registry.store.put_table(table) for name, table in self.tables.items()}
        whole = {
            name: InputVersion(
                ref=VersionRef(name=f"test/{name}", version=0, content_id=""),
                data=(DataObject(sha256=stored[name].sha256, rows=table.num_rows, bytes=stored[name].bytes),),
            )
            for name, table in self.tables.items()
            if name != self.operator.streamed
        }
        part = Partition(digest=WHOLE, rows=sum(table.num_rows for table in self.tables.values()))
        if (stream := self.operator.streamed) is not None:
            number = self.tables[stream].num_rows
            part = Partition(digest="test", rows=number, rows_in=Slice(sha256=stored[stream].sha256, start=0, stop=number))
        operation = Operation(self._job(whole), self.registry, models, self.operator)
        operation.log.propagate = True  # the test's own logging shows what the operator writes
        scope = Scope(FileCollector(self.registry))
        try:
            if self.operator.shape == "row":
                write = await run_rows(operation, part, scope, lambda: None)
            elif self.operator.shape == "batch":
                write = run_batch(operation, part, scope)
            else:
                write = await run_whole(operation, part, scope)
            receipt = write()
        finally:
            scope.clear()
            for handler in list(operation.log.handlers):
                operation.log.removeHandler(handler)
                handler.close()
            models.journal.close()
        counts, values = scope.tally.metrics()
        notes = (*receipt.notes, *scope.tally.notes)
        return receipt.model_copy(update={"counts": (*receipt.counts, *counts), "values": values, "notes": notes})

    def _job(self, whole: Mapping[str, InputVersion]) -> Job:
        grouped = {name: self.groups.get(name, range(self.tables[name].num_rows)) for name in self.operator.grouped}
        return Job(
            registry=self.registry.location,
            run_id="test",
            pipeline="test",
            step=self.operator.name,
            base_key="test",
            operator=self.operator.name,
            types={},
            code="",
            params={name: getattr(self.params, name) for name in type(self.params).model_fields},
            inputs={name: (version,) for name, version in whole.items()},
            models={
                role: ModelBinding(name=role, spec=model.spec, weights=None, identity="scripted")
                for role, model in self.scripts.items()
            },
            seed=self.seed,
            row_groups={name: tuple(numbers) for name, numbers in grouped.items() if name in self.tables},
            decisions=tuple(self.decisions),
        )


class _Models:
    """See engine.worker.operation.Roles."""

    def __init__(self, scripts: Mapping[str, Scripted], journal: Journal) -> None:
        self.journal = journal
        self._roles = {role: self._model(role, script) for role, script in scripts.items()}

    def role(self, role: str) -> ChatModel | Encoder | None:
        return self._roles.get(role)

    def _model(self, role: str, script: Scripted) -> ChatModel | Encoder:
        if isinstance(script, ScriptedEncoder):
            return Encoder(role, script, "scripted", "scripted")
        client = ModelClient(script.spec, "scripted", self.journal, Governor(script.spec), lambda: script)
        return ChatModel(role, client)


# -- inputs -------------------------------------------------------------------------------------------------------------


def _inputs(operator: Operator, rows: Rows, others: Mapping[str, Rows]) -> dict[str, Rows]:
    """Rows by input, without optional inputs that were left out."""
    if operator.named_inputs:
        if not others:
            raise _wrong(f"operator {operator.name} takes inputs of any name", "give some: run_operator(..., rows=[...])")
        return dict(others)
    first = next(iter(operator.inputs), None)
    given = ({first: rows} if first and first not in others else {}) | dict(others)
    for name in given:
        if name not in operator.inputs:
            hint = did_you_mean(name, operator.inputs)
            raise _wrong(f"operator {operator.name} has no input {name!r}", hint)
    for name in operator.required:
        if name not in given:
            raise _wrong(f"operator {operator.name} needs the input {name!r}", f"give it: run_operator(..., {name}=[...])")
    return given


def _type_of(operator: Operator, name: str, rows: Sequence[Record | Mapping[str, Any]]) -> type[Record]:
    port = operator.inputs[name]
    if not port.open:
        return port.record
    found = list(dict.fromkeys(type(row) for row in rows))
    if len(found) != 1 or not issubclass(found[0], Record):
        shown = ", ".join(each.__name__ for each in found) or "nothing"
        raise _wrong(f"the input {name!r} takes records of any one type; it got {shown}", "")
    return found[0]


def _valid(operator: Operator, name: str, rows: Sequence[Record | Mapping[str, Any]]) -> list[Record]:
    """Rows as records of the input's type. Types are structural: another type that has its fields is fine."""
    record = operator.inputs[name].record
    wanted = record.model_fields.keys()
    valid = []
    for row in rows:
        fields = dict(row)
        if isinstance(row, Record):
            fields = {name: value for name, value in row.model_dump().items() if name in wanted}
        valid.append(record.model_validate(fields, by_name=True, by_alias=True))
    return valid


def _roles(operator: Operator, params: BaseModel, models: Mapping[str, Scripted]) -> dict[str, Scripted]:
    for role, model in models.items():
        if role not in operator.roles:
            raise _wrong(f"operator {operator.name} has no role {role!r}", did_you_mean(role, operator.roles))
        expected = ScriptedEncoder if operator.roles[role].encoder else ScriptedModel
        if not isinstance(model, expected):
            raise _wrong(f"the role {role!r} got a {type(model).__name__}", f"give it a {expected.__name__}")
    used = operator.used_roles(params)
    for role in used:
        if role not in models:
            kind = "ScriptedEncoder" if operator.roles[role].encoder else "ScriptedModel"
            hint = f'give it: run_operator(..., models={{"{role}": {kind}(...)}})'
            raise _wrong(f"operator {operator.name} needs a model in the role {role!r}", hint)
    return {role: models[role] for role in used}


def _wrong(what: str, hint: str) -> PipelineError:
    return PipelineError([Problem(what, hint=hint)])


# -- results -----------------------------------------------------------------------------------------------------------


def _raise_failure_of(scripts: Mapping[str, Scripted]) -> None:
    for script in scripts.values():
        if isinstance(script, ScriptedModel) and script.failure:
            raise script.failure


def _result(
    operator: Operator, params: BaseModel, tables: Mapping[str, pa.Table], receipt: Receipt, registry: Registry
) -> OperatorResult:
    finished = operator.finished({(each.metric, each.slice): each.value for each in receipt.counts}, params)
    names = list(operator.inputs)
    outputs: dict[str, list[Record]] = {}
    sources: dict[str, list[tuple[tuple[str, int], ...]]] = {}
    for name, record in operator.outputs.items():
        part = receipt.outputs.get(name)
        rows = list(record.from_table(registry.store.read_table(part.data.sha256))) if part and part.data else []
        found: list[list[tuple[str, int]]] = [[] for _ in rows]
        if part and part.in_place and operator.streamed:
            found = [[(operator.streamed, place)] for place in range(len(rows))]
        if part and part.lineage:
            for edge in registry.store.read_table(part.lineage.sha256).to_pylist():
                found[edge["child_row"]].append((names[edge["input"]], edge["parent_row"]))
        outputs[name] = [*rows, *finished.rows.get(name, ())]
        sources[name] = [*map(tuple, found), *[()] * len(finished.rows.get(name, ()))]
    rejects = registry.store.read_table(receipt.rejects.sha256).to_pylist() if receipt.rejects else []
    return OperatorResult(
        outputs=outputs,
        sources=sources,
        rejects=tuple(
            Rejected(_row(operator, tables, names[each["input"]], each["parent_row"]), each["reason"]) for each in rejects
        ),
        filtered=receipt.filtered,
        metrics=(*receipt.counts, *receipt.values, *finished.metrics),
        notes=tuple(dict.fromkeys(receipt.notes)),
    )


def _row(operator: Operator, tables: Mapping[str, pa.Table], name: str, number: int) -> Record:
    return next(operator.inputs[name].record.from_table(tables[name].slice(number, 1)))
