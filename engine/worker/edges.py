"""The lineage of an output's rows in one partition, kept small and fast for rows that each have one source."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from registry.catalog import side_schemas


class Edges:
    """Which input rows each output row came from. Rows are numbered as in OutputPart.

    Args:
        streamed: the number of the streamed input; None if there is none.
    """

    def __init__(self, streamed: int | None) -> None:
        self._streamed = streamed
        self._in_place = 0  # that many rows came from the same place of the streamed input, and there are no others
        self._columns = (array("q"), array("h"), array("q"))

    def add(self, child: int, number: int, parent: int) -> None:
        """Append that row `child` came from row `parent` of input `number`. Children do not descend."""
        if child == self._in_place == parent and number == self._streamed:
            self._in_place += 1
            return
        if self._in_place > 0:
            self._spell_out()
        self._in_place = -1
        for column, value in zip(self._columns, (child, number, parent), strict=True):
            column.append(value)

    def __len__(self) -> int:
        return max(0, self._in_place) + len(self._columns[0])

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        yield from ((row, self._streamed or 0, row) for row in range(self._in_place))
        yield from zip(*self._columns, strict=True)

    def parents(self, number: int) -> set[int]:
        """The rows of an input that are sources."""
        return {parent for _, each, parent in self if each == number}

    @property
    def in_place(self) -> bool:
        """Whether each row came from the same place of the streamed input alone."""
        return self._in_place > 0

    def table(self) -> pa.Table:
        """The edges as a side object has them."""
        if self._in_place > 0:
            self._spell_out()
        columns = zip(self._columns, side_schemas.LINEAGE, strict=True)
        # By their buffers: `pa.array` would look at each number.
        arrays = [pa.Array.from_buffers(field.type, len(each), [None, pa.py_buffer(each)]) for each, field in columns]
        return pa.Table.from_arrays(arrays, schema=side_schemas.LINEAGE)

    def _spell_out(self) -> None:
        children, numbers, parents = self._columns
        rows = np.arange(self._in_place, dtype=np.int64).tobytes()
        children.frombytes(rows)
        parents.frombytes(rows)
        numbers.extend([self._streamed or 0] * self._in_place)
        self._in_place = -1
