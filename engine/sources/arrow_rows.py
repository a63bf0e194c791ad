"""Rows that are read together, as Arrow batches, and how they become Python values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.sources.coercion import Number
from engine.sources.row import MAX_ROW_BYTES, Row

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ArrowRows:
    """Rows that are read together.

    Attributes:
        batch: their values.
        name: the name of the file or table that they are read from.
        first: the number of the first one.
        unread: see Row.
    """

    batch: pa.RecordBatch | pa.Table
    name: str
    first: int
    unread: frozenset[str]

    def __iter__(self) -> Iterator[Row]:
        """The rows one by one."""
        return _arrow_rows(self.batch, self.name, self.first, self.unread)


def one_by_one(rows: Iterator[Row | ArrowRows]) -> Iterator[Row]:
    """The same rows, none of them together."""
    for each in rows:
        yield from (each,) if isinstance(each, Row) else each


def _arrow_rows(batch: pa.RecordBatch | pa.Table, name: str, first: int, unread: frozenset[str]) -> Iterator[Row]:
    columns = {column: list(_values(batch.column(column))) for column in batch.schema.names}
    size = batch.nbytes // max(1, batch.num_rows)
    for row in range(batch.num_rows):
        where = f"{name} row {first + row}"
        fields = {column: values[row] for column, values in columns.items()}
        bad = [f"{column}: {value.why}" for column, value in fields.items() if isinstance(value, _Unreadable)]
        if size > MAX_ROW_BYTES:
            bad.append(f"the row has more than {MAX_ROW_BYTES >> 20} MiB")
        if bad:
            yield Row(where, error="; ".join(bad), unread=unread)
        else:
            yield Row(where, fields, size=size, unread=unread)


@dataclass(frozen=True)
class _Unreadable:
    why: str


def _values(column: Any) -> list[Any]:
    """The values of an Arrow column; those that Python cannot represent are _Unreadable."""
    convert = _exact(column.type)
    try:
        values = column.to_pylist()
    except _no_value():
        values = [_cell(cell) for cell in column]
    return (
        [value if value is None or isinstance(value, _Unreadable) else convert(value) for value in values]
        if convert
        else values
    )


def _no_value() -> tuple[type[Exception], ...]:
    """What pyarrow raises for values that it cannot convert: text that is not UTF-8, dates after 9999, unknown time zones."""
    import pyarrow as pa

    return (ValueError, OverflowError, KeyError, TypeError, pa.ArrowException)


def _cell(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return _Unreadable("not UTF-8")
    except _no_value() as error:
        return _Unreadable(f"a {cell.type} that cannot be read: {error}")


def _exact(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """How values of an Arrow type keep the text of floats with fewer than 64 bits; None if there are none."""
    import pyarrow as pa

    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        import numpy as np

        narrow = np.float16 if pa.types.is_float16(kind) else np.float32
        return lambda value: Number(repr(float(str(narrow(value))))) if np.isfinite(value) else value
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _exact(kind.value_type)
        return inner and (lambda values: [None if value is None else inner(value) for value in values])
    if pa.types.is_struct(kind):
        parts = {part.name: convert for part in kind if (convert := _exact(part.type))}
        if not parts:
            return None
        return lambda fields: {
            key: parts[key](value) if key in parts and value is not None else value for key, value in fields.items()
        }
    if pa.types.is_dictionary(kind):
        return _exact(kind.value_type)
    return None
