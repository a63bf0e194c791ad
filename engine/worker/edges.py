"""The lineage of an output's rows in one partition: which input rows each came from."""

from __future__ import annotations

from array import array

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from registry.catalog import side_schemas
from registry.records.arrays import int64_array


class Edges:
    """Collects edges. Rows are numbered as in OutputPart.

    Args:
        streamed: the number of the streamed input; None if there is none.

    Attributes:
        places: for each row that came from one row of the streamed input alone, the place of that one. Append to it, in the
            order of the rows; most are such. If there are any, each other row has edges of `add`.
    """

    def __init__(self, streamed: int | None) -> None:
        self._streamed = -1 if streamed is None else streamed
        self._others: list[tuple[int, int, int]] = []
        self.places = array("q")

    def add(self, child: int, number: int, parent: int) -> None:
        """Row `child` came from row `parent` of input `number`. Calls must be in ascending order of `child`."""
        self._others.append((child, number, parent))

    def __len__(self) -> int:
        return len(self.places) + len(self._others)

    def in_place(self, rows: int) -> bool:
        """Whether each of the output's `rows` rows came from the row at the same place of the streamed input alone."""
        return bool(rows and len(self.places) == rows and (_numbers(self.places) == np.arange(rows)).all())

    def taken(self, table: pa.Table) -> pa.Table:
        """The rows of a table at `places`."""
        places = _numbers(self.places)
        return table if self.in_place(table.num_rows) else table.take(int64_array(places))

    def parents(self, number: int) -> NDArray[np.int64]:
        """The rows of an input that are sources, in order, each once."""
        places = _numbers(self.places)
        if number == self._streamed and not self._others and (places[1:] > places[:-1]).all():
            return places
        others = np.array([parent for _, each, parent in self._others if each == number], np.int64)
        return np.unique(np.concatenate([others, places]) if number == self._streamed else others)

    def table(self) -> pa.Table:
        """The edges as a side object has them."""
        places, others = _numbers(self.places), np.array(self._others, np.int64).reshape(-1, 3).T
        rows = np.ones(len(places) + len(np.unique(others[0])) if len(places) else 0, bool)
        if len(places):
            rows[others[0]] = False
        children = np.concatenate([np.flatnonzero(rows), others[0]])
        order = np.argsort(children, kind="stable")
        numbers = np.concatenate([np.full(len(places), self._streamed), others[1]])
        values = (children, numbers, np.concatenate([places, others[2]]))
        arrays = [
            pa.Array.from_buffers(field.type, len(order), [None, pa.py_buffer(each[order].astype(kind).tobytes())])
            for each, field, kind in zip(values, side_schemas.LINEAGE, (np.int64, np.int16, np.int64), strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=side_schemas.LINEAGE)


def _numbers(values: array[int]) -> NDArray[np.int64]:
    return np.frombuffer(values, np.int64) if values else np.empty(0, np.int64)
