"""Reads the rows that a partition works on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from engine.jobs.messages import InputVersion, Slice
from engine.worker.row_tables import GivenRows
from registry import ObjectStore, Record
from registry.records.stored_rows import read_valid, reads_as_stored


def read_slice(store: ObjectStore, rows: Slice, record: type[Record]) -> pa.Table:
    """The rows of a slice as a table of `record`."""
    return _concatenated([_stored(store, rows)], record)


def read_rows(store: ObjectStore, rows: Slice, record: type[Record]) -> GivenRows:
    """The same rows as records. Valid rows are not validated again."""
    table = _stored(store, rows)
    if not rows.valid:
        return GivenRows(list(record.from_table(record.conform(table))), None)
    return GivenRows(list(read_valid(record, table)), record.conform(table) if reads_as_stored(record) else None)


def read_whole(store: ObjectStore, versions: Sequence[InputVersion], record: type[Record]) -> pa.Table:
    """All rows of an input as a table of `record`."""
    return _concatenated([store.read_table(data.sha256) for version in versions for data in version.data], record)


def _stored(store: ObjectStore, rows: Slice) -> pa.Table:
    # Partitions start in order and often share an object with the one before.
    return store.read_recent(rows.sha256).slice(rows.start, rows.rows)


def _concatenated(pieces: list[pa.Table], record: type[Record]) -> pa.Table:
    """Tables of different record types as one with the columns of `record`."""
    return pa.concat_tables([record.arrow_schema().empty_table(), *(record.conform(piece) for piece in pieces)])
