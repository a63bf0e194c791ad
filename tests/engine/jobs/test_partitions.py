"""How many rows a partition has: enough to be worth its files, and the same ones whatever else the input has."""

from __future__ import annotations

import pyarrow as pa
import pytest

from engine.jobs.partitions import COMPUTED, cuts


def table(rows: int, letters: int) -> pa.Table:
    return pa.table({"text": [f"{number:0{letters}}" for number in range(rows)]})


@pytest.mark.parametrize(("letters", "most"), [(8, 4096), (100, 2048), (180, 1024), (2000, 1024)])
def test_partitions_of_short_rows_have_more_of_them(letters: int, most: int) -> None:
    sizes = [stop - start for start, stop in cuts(table(5000, letters), COMPUTED)]
    assert sizes == [most] * (5000 // most) + [5000 % most]


def test_a_few_more_rows_leave_the_cuts_before_them() -> None:
    few, more = ([*cuts(table(rows, 100), COMPUTED)] for rows in (5000, 5100))
    assert few[:-1] == more[:-1]


def test_rows_that_are_long_are_cut_by_their_memory() -> None:
    sizes = [stop - start for start, stop in cuts(table(40, 1 << 20), COMPUTED)]
    assert max(sizes) < 16
    assert sum(sizes) == 40
