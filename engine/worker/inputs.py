"""Reads the rows that a partition works on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from engine.jobs.messages import InputVersion, Slice
from engine.worker.row_tables import GivenRows, GivenTable
from registry import ObjectStore, Record
from registry.records.stored_rows import read_valid, reads_as_stored


def read_slice(store: ObjectStore, rows: Slice, record: type[Record]) -> GivenTable:
    """The rows of a slice as a table of `record`."""
    # Partitions start in order and often share an object with the one before.
    stored = store.read_recent(rows.sha256)
    table = record.conform(stored.slice(rows.start, rows.rows))
    valid = rows.valid and reads_as_stored(record)
    whole = valid and rows.rows == stored.num_rows and stored.schema.equals(table.schema, check_metadata=True)
    return GivenTable(table, record if valid else None, rows.sha256 if whole else None)


def read_rows(store: ObjectStore, rows: Slice, record: type[Record]) -> GivenRows:
    """The same rows as records. Valid rows are not validated again."""
    given = read_slice(store, rows, record)
    records = read_valid(record, given.rows) if rows.valid else record.from_table(given.rows)
    return GivenRows([*records], given)


def read_whole(store: ObjectStore, versions: Sequence[InputVersion], record: type[Record]) -> pa.Table:
    """All rows of an input as a table of `record`."""
    # Of different record types, perhaps.
    pieces = (record.conform(store.read_table(data.sha256)) for version in versions for data in version.data)
    return pa.concat_tables([record.arrow_schema().empty_table(), *pieces])
