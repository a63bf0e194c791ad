"""Arrays of texts and numbers are made without pandas, and are those that `pa.array` makes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import Record
from registry.records.arrays import _without_pandas as without_pandas
from registry.records.arrays import array_of, int64_array, numbers_of, zero
from registry.records.columns import columns_of


class Texts(Record):
    """All types that are made without pandas, and one that is not."""

    plain: str
    perhaps: str | None
    several: list[str]
    gaps: list[str | None] | None
    nested: list[list[str]]
    pair: tuple[str, ...]
    number: int
    count: int | None
    ratio: float | None
    flag: bool | None
    vectors: list[list[float]]
    flags: list[bool | None]
    when: dt.datetime


COLUMNS = columns_of(Texts).parts
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
INT = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "plain": TEXT,
    "perhaps": st.none() | TEXT,
    "several": st.lists(TEXT, max_size=3),
    "gaps": st.none() | st.lists(st.none() | TEXT, max_size=3),
    "nested": st.lists(st.lists(TEXT, max_size=2), max_size=3),
    "pair": st.lists(TEXT, max_size=2).map(tuple),
    "number": INT,
    "count": st.none() | INT,
    "ratio": st.none() | st.floats(),
    "flag": st.none() | st.booleans(),
    "vectors": st.lists(st.lists(st.floats(), max_size=3), max_size=3),
    "flags": st.lists(st.none() | st.booleans(), max_size=9),
    "when": st.datetimes(timezones=st.just(dt.UTC)),
}


@pytest.mark.proof
@pytest.mark.parametrize("name", VALUES)
def test_an_array_is_the_one_that_arrow_makes(name: str) -> None:
    @given(st.lists(VALUES[name], max_size=20))
    def check(values: list[Any]) -> None:
        made = without_pandas(values, COLUMNS[name])
        assert (made is None) == (name == "when")
        made = array_of(values, COLUMNS[name]) if made is None else made
        made.validate(full=True)
        assert made.type == COLUMNS[name].arrow
        expected = pa.array(values, COLUMNS[name].arrow)
        assert repr(made.to_pylist()) == repr(expected.to_pylist())  # as text, because NaN is not equal to itself
        assert made.nbytes == expected.nbytes  # decides where objects are cut

    check()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("plain", [5]),
        ("plain", ["\ud800"]),
        ("several", ["text"]),
        ("several", [[1]]),
        ("nested", [["text"]]),
        ("number", [2**63]),
        ("number", [True]),
        ("number", [1.0]),
        ("ratio", [1]),
        ("flag", [0]),
        ("vectors", [[1]]),
    ],
)
def test_values_of_other_types_are_left_to_arrow(name: str, values: list[Any]) -> None:
    assert without_pandas(values, COLUMNS[name]) is None


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.uint8(), 0), (pa.int32(), 0), (pa.int64(), 0), (pa.float64(), 0.0), (pa.large_binary(), b""), (pa.large_string(), "")],
)
def test_the_zero_of_a_type(kind: pa.DataType, value: Any) -> None:
    assert zero(kind) == pa.scalar(value, kind)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([], pa.int64()),
        pa.array([1, -2, 3], pa.int64()),
        pa.array([1, 2, 3, 4], pa.int16()).slice(1, 2),
        pa.array([0.5, float("inf")], pa.float64()),
        pa.array([True, False, True] * 5, pa.bool_()).slice(3, 11),
        pa.chunked_array([pa.array([1, 2], pa.int32()), pa.array([3], pa.int32())]),
        pa.chunked_array([], pa.float32()),
    ],
)
def test_numbers_are_those_of_to_numpy(array: pa.Array | pa.ChunkedArray) -> None:
    expected = array.to_numpy() if isinstance(array, pa.ChunkedArray) else array.to_numpy(zero_copy_only=False)
    found = numbers_of(array)
    assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


def test_nulls_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="1 of 2 values are null"):
        numbers_of(pa.array([1, None]))


def test_numbers_of_any_stride_become_an_array() -> None:
    assert int64_array(np.arange(6)[::2]).to_pylist() == [0, 2, 4]
