"""How many rows a partition has: enough to be worth its files, and the same ones whatever else the input has."""

from __future__ import annotations

import pyarrow as pa
import pytest

from engine.jobs.partitions import BATCHES, COMPUTED, Size, cuts


def table(rows: int, letters: int) -> pa.Table:
    return pa.table({"text": [f"{number:0{letters}}" for number in range(rows)]})


@pytest.mark.parametrize("size", [COMPUTED, BATCHES])
def test_a_few_more_rows_leave_the_cuts_before_them(size: Size) -> None:
    few, more = ([*cuts(table(rows, 100), size)] for rows in (5000, 5100))
    assert len(few) > 1
    assert few[:-1] == more[:-1]


def test_rows_that_are_long_are_cut_by_their_memory() -> None:
    sizes = [stop - start for start, stop in cuts(table(40, 1 << 20), COMPUTED)]
    assert max(sizes) < 16
    assert sum(sizes) == 40
