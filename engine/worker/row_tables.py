"""Rows as Arrow tables: those that an operator was given, and those that a batch operator returned, which are checked a column
at a time where that needs no look at single rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.sources.columnar import typed
from registry import Record
from registry.records.arrays import int64_array, numbers_of
from registry.records.content import content_id

ROW = "_row"
"""The column with the row of the batch that a row came from."""


class GivenTable(NamedTuple):
    """The rows of a partition.

    Attributes:
        rows: the rows.
        record: their type if all are valid, and stored as validation leaves them; else None.
        stored: the object that has exactly these rows, if they are valid and there is one.
    """

    rows: pa.Table
    record: type[Record] | None
    stored: str | None


class GivenRows(NamedTuple):
    """The same rows also as records."""

    records: Sequence[Record]
    table: GivenTable


class RowTable(NamedTuple):
    """Valid rows of an output, with exactly its columns.

    Attributes:
        rows: the rows.
        places: the row of the batch that each came from, if that is known.
        passed_on: each is equal to the row that it came from.
    """

    rows: pa.Table
    places: NDArray[np.int64] | None
    passed_on: bool = False


def row_table(table: pa.Table, record: type[Record], batch: int, given: pa.Table | None) -> RowTable | None:
    """The rows that a batch operator returned for an output; None if they have to be read one by one.

    Args:
        table: what it returned.
        record: the output's type.
        batch: the number of rows that it got.
        given: these rows, if they are valid rows of the output's type. A row that is equal to its source is valid, too.
    """
    places = None
    if ROW in table.schema.names:
        places = _places(table.column(ROW), batch)
        if places is None:
            return None
    rows = table.select([name for name in record.model_fields if name in table.schema.names])
    if not rows.num_columns:
        return None
    if places is not None and given is not None and _are(rows, given, places):
        return RowTable(pa.Table.from_arrays(rows.columns, schema=given.schema), places, passed_on=True)
    made = typed(rows, record, {})
    return None if made is None else RowTable(made, places)


def _places(numbers: pa.ChunkedArray, batch: int) -> NDArray[np.int64] | None:
    """One row of the batch for each number; None if it is not so simple."""
    if numbers.null_count or not pa.types.is_integer(numbers.type) or numbers.type == pa.uint64():
        return None
    places = numbers_of(numbers.cast(pa.int64()))
    return places if ((places >= 0) & (places < batch)).all() else None


def _are(rows: pa.Table, given: pa.Table, places: NDArray[np.int64]) -> bool:
    if rows.schema.names != given.schema.names or rows.schema.types != given.schema.types:
        return False
    in_place = len(places) == given.num_rows and bool((places == np.arange(len(places))).all())
    source = given if in_place else given.take(int64_array(places))
    if not rows.equals(source):
        return False
    # 0.0 equals -0.0, but is another value.
    floats = [each.name for each in given.schema if _has_floats(each.type)]
    schema = pa.schema([given.schema.field(name) for name in floats])
    return not floats or content_id(schema, [rows.select(floats)]) == content_id(schema, [source.select(floats)])


def _has_floats(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or any(_has_floats(kind.field(place).type) for place in range(kind.num_fields))
