"""Reads the rows that a partition works on, whatever objects and versions they are spread over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import pyarrow as pa

from engine.jobs.messages import InputPart, Partition
from registry import DataObject, ObjectStore, Record, Registry


def read_slice(registry: str, parts: Sequence[InputPart], record: type[Record], part: Partition) -> pa.Table:
    """Rows [start, stop) of an input as a table of `record`; the registry by its location."""
    pieces, start = [], 0
    for data in _objects(parts):
        stop = start + data.rows
        if start < part.stop and stop > part.start:
            table = _cached_table(registry, data.sha256)
            pieces.append(table.slice(max(0, part.start - start), min(stop, part.stop) - max(start, part.start)))
        start = stop
    return _concatenated(pieces, record)


def read_whole(store: ObjectStore, parts: Sequence[InputPart], record: type[Record]) -> pa.Table:
    """All rows of an input as a table of `record`."""
    return _concatenated([store.read_table(data.sha256) for data in _objects(parts)], record)


@lru_cache(maxsize=2)
def _cached_table(registry: str, sha256: str) -> pa.Table:
    """Neighbouring partitions are slices of the same object, or reach into the next; they are begun in order."""
    return Registry(registry).store.read_table(sha256)


def _objects(parts: Sequence[InputPart]) -> Iterator[DataObject]:
    for part in parts:
        yield from part.data


def _concatenated(pieces: list[pa.Table], record: type[Record]) -> pa.Table:
    """Tables of different record types as one with the columns of `record`."""
    return pa.concat_tables([record.arrow_schema().empty_table(), *(record.conform(piece) for piece in pieces)])
