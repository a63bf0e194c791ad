"""Turns what an operator yielded into objects: rows, their lineage, the calls that made them, and rejects."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.job import InputPart, OutputPart, Partition, Receipt, Usage
from engine.llm.chat import Call, CallLog
from engine.operator import Operator
from registry import DataObject, ObjectStore, Record, SideObject, side


@dataclass(frozen=True)
class Emitted:
    """A yielded row and the calls that made it."""

    output: str
    record: Record
    calls: tuple[Call, ...]


class OutputWriter:
    """Collects one partition's rows and writes them as objects.

    Args:
        store: where to.
        operator: whose outputs these are.
        stream: the versions that the row-by-row input is made of, for lineage; empty when lineage is not known.
    """

    def __init__(self, store: ObjectStore, operator: Operator, stream: Sequence[InputPart]) -> None:
        self._store = store
        self._operator = operator
        self._stream = stream
        self._rows: dict[str, list[Record]] = defaultdict(list)
        self._lineage: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        self._calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._rejects: list[dict[str, Any]] = []

    def row(self, number: int, emitted: Sequence[Emitted], rejected: str | None, log: CallLog) -> None:
        """Take what became of input row `number`."""
        for item in emitted:
            place = len(self._rows[item.output])
            self._rows[item.output].append(item.record)
            self._lineage[item.output].append((place, *self._origin(number)))
            self._calls[item.output] += [_call_row(call, place) for call in item.calls]
        if rejected is not None:
            input_number, parent_row = self._origin(number)
            self._rejects.append({"input": input_number, "parent_row": parent_row, "reason": rejected})
        linked = {call.call_id for item in emitted for call in item.calls}
        self.loose_calls([call for call in log.calls if call.call_id not in linked])

    def batch(self, output: str, rows: Sequence[Record], origins: Sequence[int] | None) -> None:
        """Take rows that are not the work of one input row; `origins` are their numbers in the input, when known."""
        for place, row in enumerate(rows):
            if origins is not None:
                self._lineage[output].append((len(self._rows[output]), *self._origin(origins[place])))
            self._rows[output].append(row)

    def loose_calls(self, calls: Sequence[Call]) -> None:
        """Take calls that led to no row; they stand with the first output."""
        first = next(iter(self._operator.outputs))
        self._calls[first] += [_call_row(call, None) for call in calls]

    def receipt(
        self,
        part: Partition,
        *,
        led: int,
        filtered: int,
        rejected: int,
        opaque: bool = False,
        usage: Usage = Usage(),  # noqa: B008  (frozen)
    ) -> Receipt:
        """Write the objects; the receipt names them."""
        rejects = None
        if self._rejects:
            rejects = self._side("rejects", pa.Table.from_pylist(self._rejects, schema=side.REJECTS))
        return Receipt(
            partition=part,
            outputs={name: self._output(name) for name in self._operator.outputs},
            rejects=rejects,
            led=led,
            filtered=filtered,
            rejected=rejected,
            opaque=opaque,
            usage=usage,
        )

    def _output(self, name: str) -> OutputPart:
        data = lineage = calls = None
        if rows := self._rows[name]:
            table = self._operator.outputs[name].to_table(rows)
            stored = self._store.put_table(table)
            data = DataObject(sha256=stored.sha256, rows=len(rows), bytes=stored.bytes, memory=table.nbytes)
        if edges := self._lineage[name]:
            columns = [
                pa.array(column, kind) for column, kind in zip(zip(*edges, strict=True), side.LINEAGE.types, strict=True)
            ]
            table = pa.Table.from_arrays(columns, schema=side.LINEAGE)
            lineage = self._side("lineage", table, delta=("child_row", "parent_row"))
        if made := self._calls[name]:
            calls = self._side("calls", pa.Table.from_pylist(made, schema=side.CALLS))
        return OutputPart(data=data, lineage=lineage, calls=calls)

    def _side(self, kind: Any, table: pa.Table, delta: tuple[str, ...] = ()) -> SideObject:
        stored = self._store.put_table(table, delta=delta)
        return SideObject(kind=kind, sha256=stored.sha256, rows=table.num_rows, bytes=stored.bytes)

    def _origin(self, number: int) -> tuple[int, int]:
        """A row of the concatenated stream as (number of the input version, row in that version)."""
        for part in self._stream:
            if number < part.rows:
                return part.number, number
            number -= part.rows
        raise IndexError(f"row {number} lies behind the last input row")


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
