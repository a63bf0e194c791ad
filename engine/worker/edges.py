"""The lineage of an output's rows in one partition: which input rows each came from."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from registry.catalog import side_schemas


class Edges:
    """Collects edges. Rows are numbered as in OutputPart, and children come in ascending order.

    Most rows come from one row of the streamed input, the one that the operator was called for. Those are kept as two numbers.

    Args:
        streamed: the number of the streamed input; None if there is none.
    """

    def __init__(self, streamed: int | None) -> None:
        self._streamed = -1 if streamed is None else streamed
        self._children, self._places = array("q"), array("q")
        self._others: list[tuple[int, int, int]] = []

    def add_streamed(self, child: int, place: int) -> None:
        """Row `child` came from the row at `place` of the streamed input."""
        self._children.append(child)
        self._places.append(place)

    def add(self, child: int, number: int, parent: int) -> None:
        """Row `child` came from row `parent` of input `number`."""
        self._others.append((child, number, parent))

    def __len__(self) -> int:
        return len(self._children) + len(self._others)

    @property
    def any_streamed(self) -> bool:
        """Whether there are edges of `add_streamed`."""
        return bool(self._children)

    def in_place(self, rows: int) -> bool:
        """Whether each of the output's `rows` rows came from the row at the same place of the streamed input alone."""
        if self._others or not rows or len(self._children) != rows:
            return False
        here = np.arange(rows)
        return bool((self._numbers(self._children) == here).all() and (self._numbers(self._places) == here).all())

    def parents(self, number: int) -> set[int]:
        """The rows of an input that are sources."""
        others = {parent for _, each, parent in self._others if each == number}
        return others | {*self._places} if number == self._streamed else others

    def table(self) -> pa.Table:
        """The edges as a side object has them."""
        children, places = self._numbers(self._children), self._numbers(self._places)
        numbers: NDArray[np.int16] = np.full(len(children), self._streamed, np.int16)
        if self._others:
            others = np.array(self._others, np.int64).T
            order = np.argsort(np.concatenate([children, others[0]]), kind="stable")
            children, places = (np.concatenate(pair)[order] for pair in ((children, others[0]), (places, others[2])))
            numbers = np.concatenate([numbers, others[1].astype(np.int16)])[order]
        columns: list[NDArray[Any]] = [children, numbers, places]
        arrays = [
            pa.Array.from_buffers(kind, len(each), [None, pa.py_buffer(each.tobytes())])
            for kind, each in zip(side_schemas.LINEAGE.types, columns, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=side_schemas.LINEAGE)

    @staticmethod
    def _numbers(values: array[int]) -> NDArray[np.int64]:
        return np.frombuffer(values, np.int64) if values else np.empty(0, np.int64)
