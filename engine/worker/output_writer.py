"""Turns what an operator yielded into objects: rows, their lineage, the calls that made them, and rejects."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pyarrow as pa

from engine.jobs.messages import InputPart, OutputPart, Partition, Receipt, Usage
from engine.llm.chat import Call, CallLog
from engine.llm.types.requests import Completion
from engine.operator.declaration import Operator
from engine.provenance import RowRef, Source
from registry import DataObject, Metric, ObjectStore, Record, SideObject
from registry.catalog import side_schemas
from registry.records.content import row_id

LEFT_OUT = "rows_excluded"
"""The metric that counts rows that the exclusion list left out of an output."""


@dataclass(frozen=True)
class OutputRow:
    """A yielded row, what it is known to be made from, and the calls that were made before it."""

    output: str
    record: Record
    sources: tuple[Source, ...] = ()
    calls: tuple[Call, ...] = ()


@dataclass
class _Rows:
    """One output's rows so far, with partition-local row numbers."""

    records: list[Record] = field(default_factory=list)
    edges: list[tuple[int, int, int]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    orphans: int = 0


class OutputWriter:
    """Collects one partition's rows and writes them as objects.

    Args:
        store: where to.
        operator: whose outputs these are.
        inputs: the versions that each input is made of, for lineage.
        excluded: ids of rows, by output, that are left out (and counted).
    """

    def __init__(
        self,
        store: ObjectStore,
        operator: Operator,
        inputs: Mapping[str, Sequence[InputPart]],
        excluded: Mapping[str, frozenset[str]],
    ) -> None:
        self._store = store
        self._operator = operator
        self._inputs = inputs
        self._excluded = excluded
        self._left_out: Counter[str] = Counter()
        self._stops = {port: list(accumulate(part.rows for part in parts)) for port, parts in inputs.items()}
        self._outputs: dict[str, _Rows] = {name: _Rows() for name in operator.outputs}
        self._rejects: list[dict[str, Any]] = []
        self._exposure: dict[RowRef, int] = {}

    def row(self, at: RowRef, emitted: Sequence[OutputRow], reasons: Sequence[str], log: CallLog) -> bool:
        """Take what became of an input row: it is a source of all that was yielded for it. Returns whether any of it stays.

        Args:
            reasons: why it was rejected, or things that it was to lead to.
        """
        linked: set[int] = set()
        kept = self._kept(emitted)
        for item in kept:
            answers = {id(source) for source in item.sources if isinstance(source, Completion)}
            # A changed copy of an answer is none that a call gave: then, too, no call is left out.
            calls = [call for call in item.calls if id(call.completion) in answers] or item.calls
            self._take(item, calls, (at,))
            linked |= {id(call) for call in calls}
        number, parent_row = self._address(at)
        self._rejects += [{"input": number, "parent_row": parent_row, "reason": reason} for reason in reasons]
        self._loose_calls(call for call in log.calls if id(call) not in linked)
        return bool(kept)

    def free(self, emitted: Sequence[OutputRow], log: CallLog) -> None:
        """Take rows that are not the work of one input row; calls are linked to rows that name their answers."""
        by_answer = {id(call.completion): call for call in log.calls}
        linked: set[int] = set()
        for item in self._kept(emitted):
            answers = [id(source) for source in item.sources if isinstance(source, Completion)]
            calls = [by_answer[answer] for answer in dict.fromkeys(answers) if answer in by_answer]
            self._take(item, calls)
            linked |= {id(call) for call in calls}
        self._loose_calls(call for call in log.calls if id(call) not in linked)

    def exposed(self, seen: Mapping[RowRef, int]) -> None:
        """Take how often a trainer saw which rows: they are sources of the models that it made."""
        self._exposure = {ref: times for ref, times in sorted(seen.items()) if times}
        for name, record in self._operator.outputs.items():
            if record.registry_kind == "model" and self._exposure:
                rows = self._outputs[name]
                rows.edges += [(row, *self._address(ref)) for row in range(len(rows.records)) for ref in self._exposure]
                rows.told |= {ref.port for ref in self._exposure}
                rows.orphans = 0

    def led(self, port: str) -> set[int] | None:
        """Rows of an input that led to an output; None when that is not known."""
        rows = [each for each in self._outputs.values() if each.records]
        if not rows:
            return set()
        if any(each.orphans for each in rows) or not any(port in each.told for each in rows):
            return None
        starts = {part.number: stop - part.rows for part, stop in zip(self._inputs[port], self._stops[port], strict=True)}
        return {starts[number] + row for each in rows for _, number, row in each.edges if number in starts}

    def receipt(
        self,
        part: Partition,
        *,
        led: int,
        filtered: int,
        rejected: int,
        unused: int = 0,
        usage: Usage = Usage(),  # noqa: B008  (frozen)
    ) -> Receipt:
        """Write the objects; the receipt names them."""
        rejects = exposure = None
        if self._rejects:
            rejects = self._side("rejects", pa.Table.from_pylist(self._rejects, schema=side_schemas.REJECTS))
        if self._exposure:
            seen = [(*self._address(ref), times) for ref, times in self._exposure.items()]
            exposure = self._side("exposure", _columns(seen, side_schemas.EXPOSURE), delta=("parent_row",))
        return Receipt(
            partition=part,
            outputs={name: self._written(name, rows) for name, rows in self._outputs.items()},
            rejects=rejects,
            exposure=exposure,
            led=led,
            filtered=filtered,
            rejected=rejected,
            unused=unused,
            counts=tuple(Metric(metric=LEFT_OUT, value=count, slice=name) for name, count in sorted(self._left_out.items())),
            usage=usage,
        )

    def _kept(self, emitted: Sequence[OutputRow]) -> list[OutputRow]:
        """What the exclusion list does not leave out."""
        kept = []
        for item in emitted:
            if item.output in self._excluded and row_id(item.record) in self._excluded[item.output]:
                self._left_out[item.output] += 1
            else:
                kept.append(item)
        return kept

    def _take(self, item: OutputRow, calls: Sequence[Call], given: tuple[RowRef, ...] = ()) -> None:
        rows = self._outputs[item.output]
        place = len(rows.records)
        parents = dict.fromkeys((*given, *(source for source in item.sources if isinstance(source, RowRef))))
        rows.records.append(item.record)
        rows.edges += sorted((place, *self._address(ref)) for ref in parents)
        rows.calls += [_call_row(call, place) for call in calls]
        rows.told |= {ref.port for ref in parents}
        rows.orphans += not parents

    def _loose_calls(self, calls: Iterable[Call]) -> None:
        """Take calls that led to no row; they stand with the first output."""
        first = next(iter(self._outputs.values()))
        first.calls += [_call_row(call, None) for call in calls]

    def _written(self, name: str, rows: _Rows) -> OutputPart:
        data = lineage = calls = None
        if rows.records:
            table = self._operator.outputs[name].to_table(rows.records)
            stored = self._store.put_table(table)
            data = DataObject(sha256=stored.sha256, rows=len(rows.records), bytes=stored.bytes, memory=table.nbytes)
        if rows.edges:
            lineage = self._side("lineage", _columns(rows.edges, side_schemas.LINEAGE), delta=("child_row", "parent_row"))
        if rows.calls:
            calls = self._side("calls", pa.Table.from_pylist(rows.calls, schema=side_schemas.CALLS))
        return OutputPart(data=data, lineage=lineage, calls=calls, told=tuple(sorted(rows.told)), orphans=rows.orphans)

    def _side(self, kind: Any, table: pa.Table, delta: tuple[str, ...] = ()) -> SideObject:
        stored = self._store.put_table(table, delta=delta)
        return SideObject(kind=kind, sha256=stored.sha256, rows=table.num_rows, bytes=stored.bytes)

    def _address(self, ref: RowRef) -> tuple[int, int]:
        """A row of an input as (number of the input version, row in that version)."""
        stops = self._stops[ref.port]
        place = bisect_right(stops, ref.row)
        if not 0 <= ref.row < stops[-1]:
            raise IndexError(f"input {ref.port!r} has no row {ref.row}")
        part = self._inputs[ref.port][place]
        return part.number, ref.row - (stops[place] - part.rows)


def _columns(rows: Sequence[tuple[int, ...]], schema: pa.Schema) -> pa.Table:
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema)


def _call_row(call: Call, row: int | None) -> dict[str, Any]:
    done = call.completion
    return {
        "local_row": row,
        "call_id": call.call_id,
        "role": call.role,
        "model": call.model,
        "prompt": json.dumps(list(call.messages), ensure_ascii=False),
        "response": done.text,
        "tokens_in": done.tokens_in,
        "tokens_out": done.tokens_out,
        "latency_ms": done.latency_ms,
        "cost_usd": call.cost_usd,
    }
