"""Arrow arrays of Python values. Those of texts and of lists of texts are made without pandas.

`pa.array` and `pa.scalar` import pandas, if it is installed, to see whether they were given some of its objects. That takes
longer than all the rest of `engine plan`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from registry.records.columns import Column


def array_of(values: Sequence[Any], column: Column) -> pa.Array:
    """The values of a column as an Arrow array; raises what `pa.array` raises for values that do not fit."""
    if "pandas" not in sys.modules and (made := _made_of_text(values, column)) is not None:
        return made
    return pa.array(map(column.encode, values) if column.encode else values, column.arrow)


def zero(kind: pa.DataType) -> pa.Scalar:
    """The number 0, or the empty text or bytes, of a type."""
    buffers = [None, pa.py_buffer(bytes(16)), pa.py_buffer(b"")]
    return pa.Array.from_buffers(kind, 1, buffers[: kind.num_buffers])[0]


_TEXTS = {str, type(None)}


def _made_of_text(values: Sequence[Any], column: Column) -> pa.Array | None:
    """None where it is not for values of this type, or where some do not fit."""
    if column.encode:
        return None
    if column.kind == "str" and {*map(type, values)} <= _TEXTS:
        builder = pa.lib.StringBuilder()
        try:
            builder.append_values(values)
        except UnicodeEncodeError:
            return None
        return builder.finish().cast(column.arrow)
    if column.kind == "list" and all(isinstance(value, list | tuple) or value is None for value in values):
        items = _made_of_text([item for value in values for item in value or ()], column.parts["[]"])
        if items is None:
            return None
        given = np.packbits([value is not None for value in values], bitorder="little") if None in values else None
        offsets = np.array([0, *accumulate(len(value or ()) for value in values)], np.int32)
        buffers = [None if given is None else pa.py_buffer(given), pa.py_buffer(offsets)]
        return pa.Array.from_buffers(column.arrow, len(values), buffers, children=[items])
    return None
