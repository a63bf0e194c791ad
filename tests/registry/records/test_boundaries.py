"""Boundaries of objects depend on the rows alone, and an edit moves only those near it."""

from __future__ import annotations

import random
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.records.boundaries import BOUNDS, Bounds, changeable_objects, split
from registry.records.row_hashes import hashed
from tests.registry.records.test_record import Everything, everything

SMALL = Bounds(row=8, window=6 * 8, most=48 * 8)
"""Objects of 6 to 48 short rows."""

TOUCHED = 3
"""Objects that one edit may change: the one that it is in, and those whose boundaries its windows reach."""


def table(numbers: list[int]) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def objects(numbers: list[int], bounds: Bounds = SMALL) -> list[tuple[int, ...]]:
    """The rows of each object."""
    return [tuple(piece.column("n").to_pylist()) for piece in split([table(numbers)], bounds)]


def drawn(seed: int, count: int) -> list[int]:
    """Distinct rows, because equal rows have equal hashes."""
    return random.Random(seed).sample(range(10**12), count)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 600),
    added=st.integers(0, 100),
    removed=st.integers(0, 100),
    data=st.data(),
)
def test_an_edit_changes_the_objects_around_it_only(
    seed: int, count: int, added: int, removed: int, data: st.DataObject
) -> None:
    rows, more = drawn(seed, count), drawn(seed + 1, added)
    at = data.draw(st.sampled_from([0, count]) | st.integers(0, count), label="at")
    before = objects(rows)
    after = objects([*rows[:at], *more, *rows[at + removed :]])
    lost = [each for each in before if each not in after]
    untouched = [each for each in lost if not set(each) & set(rows[at : at + removed])]
    assert len(untouched) <= TOUCHED
    fresh = [each for each in after if each not in before and not set(each) & set(more)]
    assert len(fresh) <= TOUCHED


@settings(max_examples=25)
@given(rows=st.lists(everything, min_size=1, max_size=12), cuts=st.lists(st.integers(0, 12), max_size=4))
def test_how_the_rows_arrive_makes_no_difference(rows: list[Everything], cuts: list[int]) -> None:
    bounds = Bounds(row=100, window=250, most=1000)
    whole = Everything.to_table(rows)
    pieces = [whole.slice(start, stop - start) for start, stop in pairwise([0, *sorted(cuts), len(rows)])]
    found = list(split(pieces, bounds))
    assert [each.num_rows for each in found] == [each.num_rows for each in split([whole], bounds)]
    assert pa.concat_tables(found).equals(whole)
    assert all(column.num_chunks <= 1 for each in found for column in each.columns)


@settings(max_examples=50)
@given(values=st.lists(st.integers(0, 3), min_size=1, max_size=60), times=st.integers(1, 20))
def test_objects_have_a_least_and_a_greatest_size_whatever_repeats(values: list[int], times: int) -> None:
    found = objects(values * times)
    assert [n for each in found for n in each] == values * times
    assert all(len(each) <= 48 for each in found)
    assert all(len(each) >= 6 for each in found) or len(found) == 1


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 300), added=st.integers(1, 200), kinds=st.integers(2, 1000))
def test_rows_that_are_appended_change_only_the_last_objects(seed: int, count: int, added: int, kinds: int) -> None:
    draw = random.Random(seed)
    rows = [draw.randrange(kinds) for _ in range(count + added)]
    before = objects(rows[:count])
    sizes = [(len(each), table(list(each)).nbytes) for each in before]
    again = changeable_objects(sizes[-1], sizes[-2], SMALL) if len(before) > 1 else 1
    kept, rest = before[:-again], before[-again:]
    assert objects(rows) == [*kept, *objects([n for each in rest for n in each] + rows[count:])]


def test_rows_that_are_all_equal_fill_objects() -> None:
    assert {len(each) for each in objects([7] * 1000)[:-1]} == {48 - 6}


def test_a_long_row_ends_its_object() -> None:
    texts = pa.table({"text": ["a" * 10, "b" * 5000, *(f"{n}" for n in range(3))]})
    assert [each.num_rows for each in split([texts], SMALL)] == [2, 3]


def test_no_rows_are_one_empty_object() -> None:
    assert [each.num_rows for each in split([table([])])] == [0]


def test_objects_of_short_rows_have_thousands_of_them() -> None:
    sizes = [len(each) for each in objects(drawn(0, 200_000), BOUNDS)]
    assert min(sizes) >= BOUNDS.window // BOUNDS.row == 4096
    assert 6000 < sum(sizes) / len(sizes) < 11_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", "bc"], ["ab", "c"]),
        ([None], [""]),
        ([["a"], ["b"]], [["a", "b"], []]),
        ([{"x": 1, "y": 2}], [{"x": 2, "y": 1}]),
        ([0.5], [0.25]),
        (["a long text that ends in x"], ["a long text that ends in y"]),
    ],
)
def test_different_rows_have_different_hashes(one: list[object], other: list[object]) -> None:
    kind = pa.array(other).type
    first, second = (hashed(pa.table({"x": pa.array(values, kind)})).hashes.tolist() for values in (one, other))
    assert first != second


@settings(max_examples=20)
@given(rows=st.lists(everything, min_size=1, max_size=6))
def test_a_hash_depends_on_its_row_alone(rows: list[Everything]) -> None:
    together = hashed(Everything.to_table(rows))
    alone = [hashed(Everything.to_table([row])) for row in rows]
    assert together.hashes.tolist() == [each.hashes[0] for each in alone]
    assert together.bytes.tolist() == [each.bytes[0] for each in alone]


@settings(max_examples=20)
@given(rows=st.lists(everything, min_size=1, max_size=6))
def test_rows_have_no_more_bytes_than_their_table(rows: list[Everything]) -> None:
    together = Everything.to_table(rows)
    assert hashed(together).bytes.sum() <= together.nbytes
