"""Arrays of texts are made without pandas, and are those that `pa.array` makes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import Record
from registry.records.arrays import _made_of_text as made_of_text
from registry.records.arrays import array_of, zero
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


COLUMNS = columns_of(Texts).parts
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "plain": TEXT,
    "perhaps": st.none() | TEXT,
    "several": st.lists(TEXT, max_size=3),
    "gaps": st.none() | st.lists(st.none() | TEXT, max_size=3),
    "nested": st.lists(st.lists(TEXT, max_size=2), max_size=3),
    "pair": st.lists(TEXT, max_size=2).map(tuple),
    "number": st.integers(-(2**63), 2**63 - 1),
}


@pytest.mark.parametrize("name", VALUES)
def test_an_array_is_the_one_that_arrow_makes(name: str) -> None:
    @given(st.lists(VALUES[name], max_size=20))
    def check(values: list[Any]) -> None:
        made = made_of_text(values, COLUMNS[name])
        assert (made is None) == (name == "number")
        made = array_of(values, COLUMNS[name]) if made is None else made
        made.validate(full=True)
        assert made.type == COLUMNS[name].arrow
        assert made.equals(pa.array(values, COLUMNS[name].arrow))

    check()


@pytest.mark.parametrize(
    ("name", "values"),
    [("plain", [5]), ("plain", ["\ud800"]), ("several", ["text"]), ("several", [[1]]), ("nested", [["text"]])],
)
def test_values_of_other_types_are_left_to_arrow(name: str, values: list[Any]) -> None:
    assert made_of_text(values, COLUMNS[name]) is None


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.uint8(), 0), (pa.int32(), 0), (pa.int64(), 0), (pa.float64(), 0.0), (pa.large_binary(), b""), (pa.large_string(), "")],
)
def test_zero(kind: pa.DataType, value: Any) -> None:
    assert zero(kind) == pa.scalar(value, kind)
