"""Writes what an operator yielded as objects: rows, their lineage, the calls that made them, and rejects."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
import pyarrow as pa

from engine.jobs.messages import OutputPart, Partition, Receipt, Usage
from engine.llm.chat import Call, CallLog
from engine.llm.types.requests import without_data
from engine.operator.declaration.operator import Operator
from engine.provenance import CallRef, RowRef, Source
from engine.worker.edges import Edges
from engine.worker.row_results import OutputRow, PlainResult, RowResult
from engine.worker.row_tables import GivenRows, GivenTable, RowTable
from registry import DataObject, Metric, ObjectStore, Record, SideObject
from registry.catalog import side_schemas
from registry.records.content import content_id, row_id, row_ids

LEFT_OUT = "rows_excluded"
"""The metric that counts the rows that the exclusion list left out of an output."""


@dataclass
class _Rows:
    """One output's rows so far, with partition-local row numbers.

    Attributes:
        table: the rows, where they are not made of records.
        stored: the object with the given rows, where each of these is the given one at its place.
    """

    edges: Edges
    records: list[Record] = field(default_factory=list)
    table: pa.Table | None = None
    stored: str | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    known_parents: set[str] = field(default_factory=set)
    without_parent: int = 0

    def __len__(self) -> int:
        return self.table.num_rows if self.table is not None else len(self.records)

    def are(self, given: Sequence[Record]) -> bool:
        """Whether each row is the given one from which alone it came, and unchanged."""
        if self.edges.in_place(len(given)):
            return len(self.records) == len(given) and all(map(is_, self.records, given))
        places = self.edges.places
        return len(places) == len(self.records) and all(map(is_, self.records, map(given.__getitem__, places)))


class OutputWriter:
    """Collects one partition's rows and writes them as objects.

    Args:
        store: the store to write to.
        operator: whose outputs these are.
        rows: the number of rows of each input.
        excluded: ids of rows to leave out (and count), by output.
    """

    def __init__(
        self,
        store: ObjectStore,
        operator: Operator,
        rows: Mapping[str, int],
        excluded: Mapping[str, frozenset[str]],
    ) -> None:
        self._store = store
        self._operator = operator
        self._excluded = excluded
        self._left_out: Counter[str] = Counter()
        self._input_rows = rows
        self._numbers = {port: number for number, port in enumerate(operator.inputs)}
        self._streamed = operator.streamed or ""
        streamed = self._numbers.get(self._streamed)
        self._outputs: dict[str, _Rows] = {name: _Rows(Edges(streamed)) for name in operator.outputs}
        self._rejects: list[dict[str, Any]] = []
        self._exposure: dict[RowRef, int] = {}

    def add_results(self, results: Sequence[RowResult | PlainResult], given: GivenRows) -> int:
        """Add the results of all rows of the partition, in order. A row is a source of everything that was yielded for it.

        Args:
            results: of the rows.
            given: the rows. An output that has no others is taken from their table.

        Returns:
            The number of rows of whose results anything was kept.
        """
        produced = self._add_plain(results)
        if produced is None:
            produced = self._add_each(RowResult(each) if isinstance(each, list) else each for each in results)
        if given.table.record:
            for rows in self._outputs.values():
                if rows.records and rows.are(given.records):
                    rows.table, rows.stored = rows.edges.taken(given.table.rows), given.table.stored
        return produced

    def _add_plain(self, results: Sequence[RowResult | PlainResult]) -> int | None:
        """Add results that are nothing but records, all at once; None if there are others, or rows may have to be left out."""
        plain = [each for each in results if isinstance(each, list)]
        emitted = [*chain.from_iterable(plain)]
        records = [each for each in emitted if not isinstance(each, tuple)]
        if self._excluded or len(plain) < len(results) or len(records) < len(emitted):
            return None
        sizes = np.fromiter(map(len, plain), np.int64, len(plain))
        rows = next(iter(self._outputs.values()))
        rows.records += records
        rows.edges.places.frombytes(np.repeat(np.arange(len(plain)), sizes).tobytes())
        return int(np.count_nonzero(sizes))

    def _add_each(self, results: Iterable[RowResult]) -> int:
        streamed, produced, only = self._numbers[self._streamed], 0, next(iter(self._outputs))
        adding = {name: (rows.records.append, rows.edges.places.append) for name, rows in self._outputs.items()}
        for place, result in enumerate(results):
            emitted = [each if isinstance(each, tuple) else (only, each, (), ()) for each in result.emitted]
            kept = self._kept(emitted) if self._excluded else emitted
            produced += bool(kept)
            linked: set[int] = set()
            for item in kept:
                output, record, sources, made = item
                if not sources and not made:
                    add_record, add_place = adding[output]
                    add_record(record)
                    add_place(place)
                    continue
                # If the operator names no answer, it may have used every call made so far.
                answers = _call_ids(sources) if made else {}
                calls = [call for call in made if call.call_id in answers] or made
                self._add(item, calls, (RowRef(self._streamed, place),))
                linked |= {id(call) for call in calls}  # a row that runs again repeats a call under the same call_id
            if result.rejected is not None or result.partial:
                reasons = result.reasons
                self._rejects += [{"input": streamed, "parent_row": place, "reason": reason} for reason in reasons]
            if result.log and result.log.calls:
                self._add_unlinked(call for call in result.log.calls if id(call) not in linked)
        return produced

    def add_free(self, emitted: Sequence[OutputRow], log: CallLog) -> None:
        """Add rows that do not belong to one input row. Calls are linked to the rows that name their answers."""
        by_id: dict[str, deque[Call]] = {}
        for call in log.calls:
            by_id.setdefault(call.call_id, deque()).append(call)
        linked: set[int] = set()
        kept = self._kept(emitted)
        # An output has edges of this kind only if all of its rows have a source.
        not_placed = {item[0] for item in kept if not any(isinstance(source, RowRef) for source in item[2])}
        for item in kept:
            output, record, sources, _ = item
            if len(sources) == 1 and output not in not_placed and (place := self._place(sources[0])) is not None:
                self._outputs[output].records.append(record)
                self._outputs[output].edges.places.append(place)
                continue
            calls = [by_id[call_id][0] for call_id in _call_ids(item[2]) if call_id in by_id]
            for call in calls:
                by_id[call.call_id].rotate(-1)  # equal requests have equal ids; each row gets one of their calls
            self._add(item, calls)
            linked |= {id(call) for call in calls}
        self._add_unlinked(call for call in log.calls if id(call) not in linked)

    def add_table(self, output: str, found: RowTable, given: GivenTable) -> None:
        """Add all rows of an output. Where it is known from which row of the streamed input each came, from no other."""
        rows, (table, places, passed_on) = self._outputs[output], found
        if output in self._excluded:
            kept = np.array([each not in self._excluded[output] for each in row_ids(table)], bool)
            self._left_out[output] += len(kept) - int(kept.sum())
            table, places = table.filter(pa.array(kept)), None if places is None else places[kept]
        rows.table, rows.stored = table, given.stored if passed_on else None
        if places is None:
            rows.without_parent += table.num_rows
        else:
            rows.edges.places.frombytes(places.tobytes())

    def _place(self, source: Source) -> int | None:
        """The place of a row of the streamed input; None for other sources."""
        if not isinstance(source, RowRef) or source.port != self._streamed:
            return None
        return self._address(source)[1]

    def add_rejected(self, reasons: Mapping[int, str]) -> None:
        """Add rows of the streamed input that were rejected, by place in the partition."""
        streamed = self._numbers[self._streamed]
        self._rejects += [{"input": streamed, "parent_row": row, "reason": reasons[row]} for row in sorted(reasons)]

    def add_rejected_rows(self, reasons: Mapping[RowRef, str]) -> None:
        """Add rows of whole inputs that were rejected."""
        rows = sorted((*self._address(ref), reason) for ref, reason in reasons.items())
        self._rejects += [{"input": number, "parent_row": row, "reason": reason} for number, row, reason in rows]

    def add_exposure(self, seen: Mapping[RowRef, int]) -> None:
        """Add how often a trainer saw each row. These rows are sources of the models it made."""
        self._exposure = {ref: times for ref, times in sorted(seen.items()) if times}
        for name, record in self._operator.outputs.items():
            if record.registry_kind == "model" and self._exposure:
                rows = self._outputs[name]
                for row in range(len(rows)):
                    for ref in self._exposure:
                        rows.edges.add(row, *self._address(ref))
                rows.known_parents |= {ref.port for ref in self._exposure}
                rows.without_parent = 0

    def produced(self, port: str) -> int | None:
        """How many rows of an input produced an output row; None if this is unknown."""
        outputs = [each for each in self._outputs.values() if len(each)]
        if not outputs:
            return 0
        if any(each.without_parent for each in outputs) or not any(port in self._known_parents(each) for each in outputs):
            return None
        parents = [each.edges.parents(self._numbers[port]) for each in outputs]
        return len(parents[0] if len(parents) == 1 else np.unique(np.concatenate(parents)))

    def receipt(
        self,
        part: Partition,
        *,
        produced: int,
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
            digest=part.digest,
            rows=part.rows,
            outputs={name: self._written(name, rows) for name, rows in self._outputs.items()},
            rejects=rejects,
            exposure=exposure,
            produced=produced,
            filtered=filtered,
            rejected=rejected,
            unused=unused,
            counts=tuple(Metric(metric=LEFT_OUT, value=count, slice=name) for name, count in sorted(self._left_out.items())),
            usage=usage,
        )

    def _kept(self, emitted: Sequence[OutputRow]) -> Sequence[OutputRow]:
        """The rows that are not on the exclusion list."""
        kept = []
        for item in emitted:
            output, record, *_ = item
            if output in self._excluded and row_id(record) in self._excluded[output]:
                self._left_out[output] += 1
            else:
                kept.append(item)
        return kept

    def _add(self, item: OutputRow, calls: Sequence[Call], given: tuple[RowRef, ...] = ()) -> None:
        output, record, sources, _ = item
        rows = self._outputs[output]
        place = len(rows.records)
        parents = dict.fromkeys((*given, *(source for source in sources if isinstance(source, RowRef))))
        rows.records.append(record)
        for number, row in sorted(map(self._address, parents)):
            rows.edges.add(place, number, row)
        rows.calls += [_call_row(call, place) for call in calls]
        rows.known_parents |= {ref.port for ref in parents}
        rows.without_parent += not parents

    def _known_parents(self, rows: _Rows) -> set[str]:
        return rows.known_parents | ({self._streamed} if rows.edges.places else set())

    def _add_unlinked(self, calls: Iterable[Call]) -> None:
        """Add calls that produced no row; they are stored with the first output."""
        first = next(iter(self._outputs.values()))
        first.calls += [_call_row(call, None) for call in calls]

    def _written(self, name: str, rows: _Rows) -> OutputPart:
        data = identity = lineage = calls = None
        in_place = rows.edges.in_place(len(rows))
        if len(rows):
            record = self._operator.outputs[name]
            table = record.to_table(rows.records) if rows.table is None else rows.table
            same = in_place and len(rows) == self._input_rows.get(self._streamed)
            again = self._store.put_again(rows.stored) if rows.stored and same else None
            stored = again or self._store.put_table(table)
            data = DataObject(sha256=stored.sha256, rows=len(rows), bytes=stored.bytes, memory=table.nbytes)
            identity = content_id(record.arrow_schema(), [table]) if self._operator.shape == "whole" else None
        if rows.edges and not in_place:
            lineage = self._side("lineage", rows.edges.table(), delta=("child_row", "parent_row"))
        if rows.calls:
            calls = self._side("calls", pa.Table.from_pylist(rows.calls, schema=side_schemas.CALLS))
        return OutputPart(
            data=data,
            content_id=identity,
            lineage=lineage,
            in_place=in_place,
            calls=calls,
            known_parents=tuple(sorted(self._known_parents(rows))),
            rows_without_parent=rows.without_parent,
        )

    def _side(self, kind: Any, table: pa.Table, delta: tuple[str, ...] = ()) -> SideObject:
        stored = self._store.put_table(table, delta=delta)
        return SideObject(kind=kind, sha256=stored.sha256, rows=table.num_rows, bytes=stored.bytes)

    def _address(self, ref: RowRef) -> tuple[int, int]:
        """A row of an input as (number of the input, row)."""
        if not 0 <= ref.row < self._input_rows.get(ref.port, 0):
            raise IndexError(f"input {ref.port!r} has no row {ref.row}")
        return self._numbers[ref.port], ref.row


def _call_ids(sources: Iterable[Source]) -> dict[str, None]:
    """The ids of the calls among a row's sources, each once, in order."""
    return dict.fromkeys(source.call_id for source in sources if isinstance(source, CallRef))


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
        "prompt": json.dumps(without_data(call.messages), ensure_ascii=False),
        "response": done.text,
        "tokens_in": done.tokens_in,
        "tokens_out": done.tokens_out,
        "latency_ms": done.latency_ms,
        "cost_usd": call.cost_usd,
        "reasoning": done.reasoning,
        "finish_reason": done.finish_reason,
        "tokens_cached": done.tokens_cached,
        "tokens_reasoning": done.tokens_reasoning,
        "tool_calls": json.dumps([each.model_dump() for each in done.tool_calls], ensure_ascii=False)
        if done.tool_calls
        else None,
        "served_by": done.served_by,
    }
