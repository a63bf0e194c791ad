"""Types rows of Parquet files and hubs a column at a time, where that needs no look at single rows.

A batch is typed here if each value is what validation would make of it. All others, also those with a single wrong value, are
read row by row: the result is the same, and so are the errors.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from engine.sources.row import MAX_ROW_BYTES
from registry import Record
from registry.records.columns import columns_of
from registry.records.known_valid import checks_values_only

if TYPE_CHECKING:
    import pyarrow as pa

    Fits = Callable[[pa.ChunkedArray], bool]

_DAYS = (-719_162, 2_932_896)
"""The years 1 to 9999 in days since 1970, which are those of Python's dates."""
_DAY_US = 86_400_000_000


def typed(batch: pa.RecordBatch | pa.Table, record: type[Record], rename: Mapping[str, str]) -> pa.Table | None:
    """The rows of a batch as a table of `record`; None if they have to be read one by one."""
    import pyarrow as pa

    if not batch.num_rows or batch.nbytes // batch.num_rows > MAX_ROW_BYTES or not checks_values_only(record):
        return None
    table = pa.table(batch) if isinstance(batch, pa.RecordBatch) else batch
    names = [rename.get(name, name) for name in table.schema.names]
    parts = columns_of(record).parts
    if len({*names}) < len(names) or not {*names} <= parts.keys():
        return None
    for name, info in record.model_fields.items():
        if info.validation_alias or (name not in names and (info.is_required() or info.default_factory)):
            return None
    columns = {}
    for name, values in zip(names, table.columns, strict=True):
        part = parts[name]
        fits = _fits(values.type, part.kind)
        nulls = values.null_count and not part.nullable
        if nulls or not fits or not fits(values) or not _allowed(values, record.model_fields[name].annotation):
            return None
        columns[name] = values.cast(part.arrow)
    return record.conform(pa.table(columns))


def _fits(kind: pa.DataType, label: str) -> Fits | None:
    """Whether all values of a column have the same meaning in a field with this label; None if that depends on each."""
    import pyarrow as pa
    import pyarrow.types as of

    if label == "str" and (of.is_string(kind) or of.is_large_string(kind)):
        return _is_unicode
    if label == "int" and of.is_integer(kind) and kind != pa.uint64():
        return _all
    if label == "float" and of.is_float64(kind):
        return _is_finite
    if (label == "bool" and of.is_boolean(kind)) or (label == "bytes" and (of.is_binary(kind) or of.is_large_binary(kind))):
        return _all
    if label == "date" and of.is_date32(kind):
        return lambda values: _within(values.cast(pa.int32()), *_DAYS)
    if label == "datetime" and kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        first, last = _DAYS
        return lambda values: _within(values.cast(pa.int64()), first * _DAY_US, (last + 1) * _DAY_US - 1)
    return None


def _all(_: pa.ChunkedArray) -> bool:
    return True


def _is_unicode(values: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_finite(values: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    return pc.all(pc.is_finite(values)).as_py() is not False


def _within(values: pa.ChunkedArray, least: int, most: int) -> bool:
    import pyarrow.compute as pc

    found = pc.min_max(values).as_py()
    return found["min"] is None or (found["min"] >= least and found["max"] <= most)


def _allowed(values: pa.ChunkedArray, annotation: Any) -> bool:
    """Whether the values are among those of a Literal."""
    for each in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(each) is typing.Literal:
            return {*values.unique().to_pylist()} <= {*typing.get_args(each), None}
    return True
