"""Turns the places of input rows in receipts into rows of versions.

A receipt names an input row by the number of the input, and by its place in the partition (streamed input) or among all rows
of the input (passed whole). A manifest names it by the number of the version among all input versions, and its row there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.jobs.messages import InputVersion
from engine.operator.declaration.operator import Operator
from registry.catalog import side_schemas

Rows = NDArray[np.int64]


class InputRows:
    """The rows of a step's inputs, numbered as workers and as manifests do.

    Args:
        operator: the operator, which has the inputs.
        inputs: the versions of each input.
    """

    def __init__(self, operator: Operator, inputs: Mapping[str, Sequence[InputVersion]]) -> None:
        self._streamed = [*operator.inputs].index(operator.streamed) if operator.streamed else -1
        versions = [[each.rows for each in inputs.get(port, ())] for port in operator.inputs]
        ends = list(accumulate(chain.from_iterable(versions)))
        # All versions concatenated: where each one starts, and where each input starts.
        self._starts = np.array([0, *ends[:-1]] if ends else [], np.int64)
        self._bases = np.array([0, *accumulate(map(sum, versions))][:-1], np.int64)
        counts = [len(inputs[port]) for port in inputs]
        order = dict(zip(inputs, accumulate([0, *counts[:-1]]), strict=True))
        # Manifests number the versions in the order of the pipeline's inputs, not of the operator's.
        self._numbers = np.array(
            [order[port] + place for port in operator.inputs if port in inputs for place in range(len(inputs[port]))], np.int16
        )

    def in_place(self, rows: int) -> pa.Table:
        """The lineage of an output of `rows` rows that is in place (see OutputPart), as a receipt's side object has it."""
        numbers = np.arange(rows)
        columns = [pa.array(each) for each in (numbers, np.full(rows, self._streamed, np.int16), numbers)]
        return pa.Table.from_arrays(columns, schema=side_schemas.LINEAGE)

    def named(self, table: pa.Table, first: Rows) -> pa.Table:
        """Side objects with the columns `input` and `parent_row` of receipts, as a manifest has them.

        Args:
            table: the side objects, one after another.
            first: for each row, the place of its partition's first row in the streamed input.
        """
        inputs: Rows = table["input"].to_numpy().astype(np.int64)
        rows: Rows = table["parent_row"].to_numpy() + self._bases[inputs] + np.where(inputs == self._streamed, first, 0)
        versions = np.searchsorted(self._starts, rows, side="right") - 1
        place, row = table.schema.get_field_index("input"), table.schema.get_field_index("parent_row")
        table = table.set_column(place, table.schema.field(place), pa.array(self._numbers[versions]))
        return table.set_column(row, table.schema.field(row), pa.array(rows - self._starts[versions]))
