"""Reads the rows that a partition works on, across the objects and versions that contain them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import pyarrow as pa

from engine.jobs.messages import InputVersion, Partition
from registry import ObjectStore, Record, Registry
from registry.records.stored_rows import read_valid


def read_slice(registry: str, versions: Sequence[InputVersion], record: type[Record], part: Partition) -> pa.Table:
    """Rows [start, stop) of an input as a table of `record`; `registry` is its location."""
    return _concatenated([piece for _, piece in _pieces(registry, versions, part)], record)


def read_rows(registry: str, versions: Sequence[InputVersion], record: type[Record], part: Partition) -> Iterator[Record]:
    """The same rows as records. Rows of a valid version are not validated again."""
    for version, piece in _pieces(registry, versions, part):
        yield from read_valid(record, piece) if version.valid else record.from_table(record.conform(piece))


def read_whole(store: ObjectStore, versions: Sequence[InputVersion], record: type[Record]) -> pa.Table:
    """All rows of an input as a table of `record`."""
    return _concatenated([store.read_table(data.sha256) for version in versions for data in version.data], record)


def _pieces(registry: str, versions: Sequence[InputVersion], part: Partition) -> Iterator[tuple[InputVersion, pa.Table]]:
    """The slices of objects that make up a partition, each with its version."""
    start = 0
    for version in versions:
        for data in version.data:
            stop = start + data.rows
            if start < part.stop and stop > part.start:
                table = _cached_table(registry, data.sha256)
                yield version, table.slice(max(0, part.start - start), min(stop, part.stop) - max(start, part.start))
            start = stop


@lru_cache(maxsize=2)
def _cached_table(registry: str, sha256: str) -> pa.Table:
    """Cached, because partitions start in order and often share an object with the one before."""
    return Registry(registry).store.read_table(sha256)


def _concatenated(pieces: list[pa.Table], record: type[Record]) -> pa.Table:
    """Tables of different record types as one with the columns of `record`."""
    return pa.concat_tables([record.arrow_schema().empty_table(), *(record.conform(piece) for piece in pieces)])
