"""Arrow arrays of Python values and NumPy arrays, and back, without pandas.

`pa.array`, `pa.scalar` and `to_numpy` import pandas, if it is installed, to see whether they were given some of its objects.
That takes longer than all the rest of `engine plan`, or of a page.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from registry.counted import counted
from registry.records.columns import Column

if TYPE_CHECKING:
    import numpy.typing as npt


def array_of(values: Sequence[Any], column: Column) -> pa.Array:
    """The values of a column as an Arrow array; raises what `pa.array` raises for values that do not fit."""
    if "pandas" not in sys.modules and (made := _without_pandas(values, column)) is not None:
        return made
    return pa.array(map(column.encode, values) if column.encode else values, column.arrow)


def zero(kind: pa.DataType) -> pa.Scalar:
    """The number 0, or the empty text or bytes, of a type."""
    buffers = [None, pa.py_buffer(bytes(16)), pa.py_buffer(b"")]
    return pa.Array.from_buffers(kind, 1, buffers[: kind.num_buffers])[0]


def int64_array(numbers: npt.NDArray[np.int64]) -> pa.Array:
    """Numbers as an Arrow array that shares their memory."""
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def numbers_of(array: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Numbers of a fixed width, or booleans. Raises ValueError for nulls, for which NumPy has no number."""
    if array.null_count:
        raise ValueError(f"{array.null_count} of {counted(len(array), 'value')} are null")
    if isinstance(array, pa.ChunkedArray):
        kind = numbers_of(pa.Array.from_buffers(array.type, 0, [None, pa.py_buffer(b"")])).dtype
        return np.concatenate([np.empty(0, kind), *map(numbers_of, array.chunks)])
    if pa.types.is_boolean(array.type):
        return numbers_of(array.cast(pa.uint8())).view(np.bool_)
    found = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return found[array.offset : array.offset + len(array)]


_TEXTS = {str, type(None)}
_NUMBERS = {
    "int": ({int, type(None)}, np.int64),
    "float": ({float, type(None)}, np.float64),
    "bool": ({bool, type(None)}, np.bool_),
}


def _without_pandas(values: Sequence[Any], column: Column) -> pa.Array | None:
    """None where it is not for values of this type, or where some do not fit."""
    if column.encode:
        return None
    if column.kind in _NUMBERS:
        return _numbers(values, column)
    if column.kind == "str" and {*map(type, values)} <= _TEXTS:
        builder = pa.lib.StringBuilder()
        try:
            builder.append_values(values)
        except UnicodeEncodeError:
            return None
        return builder.finish().cast(column.arrow)
    if column.kind == "list" and all(isinstance(value, list | tuple) or value is None for value in values):
        items = _without_pandas([item for value in values for item in value or ()], column.parts["[]"])
        if items is None:
            return None
        offsets = np.array([0, *accumulate(len(value or ()) for value in values)], np.int32)
        return pa.Array.from_buffers(column.arrow, len(values), [_validity(values), pa.py_buffer(offsets)], children=[items])
    return None


def _numbers(values: Sequence[Any], column: Column) -> pa.Array | None:
    types, kind = _NUMBERS[column.kind]
    if not {*map(type, values)} <= types:
        return None
    try:
        numbers: np.ndarray[Any, Any] = np.array([0 if value is None else value for value in values], kind)
    except OverflowError:
        return None
    stored = np.packbits(numbers, bitorder="little") if kind is np.bool_ else numbers
    return pa.Array.from_buffers(column.arrow, len(values), [_validity(values), pa.py_buffer(stored)])


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    """A bit for each value, whether it is not None; None if all are not."""
    given = [value is not None for value in values]
    return None if all(given) else pa.py_buffer(np.packbits(given, bitorder="little"))
