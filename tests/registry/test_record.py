"""Records survive Arrow and Parquet unchanged; what cannot be stored is refused by name."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import ObjectStore, Record, UnsupportedTypeError
from registry.record import fields_of, missing_fields


class Colour(enum.Enum):
    red = "r"
    blue = "b"


class Inner(Record):
    role: Literal["user", "assistant"]
    content: str
    tags: dict[str, int] = {}


class Everything(Record):
    text: str
    number: int
    ratio: float
    flag: bool
    raw: bytes
    at: dt.datetime
    day: dt.date
    kind: Literal["a", "b"]
    colour: Colour
    maybe: str | None = None
    maybe_colour: Colour | None = None
    words: list[str] = []
    inner: Inner | None = None
    turns: list[Inner] = []
    scores: dict[str, float | None] = {}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
int64 = st.integers(-(2**63), 2**63 - 1)
inners = st.builds(
    Inner, role=st.sampled_from(["user", "assistant"]), content=texts, tags=st.dictionaries(texts, int64, max_size=3)
)
everything = st.builds(
    Everything,
    text=texts,
    number=int64,
    ratio=st.floats(allow_nan=False),
    flag=st.booleans(),
    raw=st.binary(max_size=20),
    at=st.datetimes(min_value=dt.datetime(1700, 1, 1), max_value=dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC)),
    day=st.dates(),
    kind=st.sampled_from(["a", "b"]),
    colour=st.sampled_from(Colour),
    maybe=st.none() | texts,
    maybe_colour=st.none() | st.sampled_from(Colour),
    words=st.lists(texts, max_size=3),
    inner=st.none() | inners,
    turns=st.lists(inners, max_size=3),
    scores=st.dictionaries(texts, st.none() | st.floats(allow_nan=False), max_size=3),
)


@given(rows=st.lists(everything, max_size=5))
def test_rows_survive_arrow_and_parquet(rows: list[Everything], tmp_path_factory: pytest.TempPathFactory) -> None:
    store = ObjectStore(tmp_path_factory.mktemp("objects"))
    table = store.read_table(store.put_table(Everything.to_table(rows)).sha256)
    assert list(Everything.from_table(table)) == rows


def test_a_record_is_read_from_a_wider_table() -> None:
    class Narrow(Record):
        text: str

    class Wide(Record):
        text: str
        more: int

    [row] = Narrow.from_table(Wide.to_table([Wide(text="x", more=1)]))
    assert row == Narrow(text="x")


@pytest.mark.parametrize("annotation", [Any, object, int | str, set[str], dict[int, str], complex, tuple[int, str]])
def test_a_type_that_cannot_be_stored_is_refused_with_the_fields_name(annotation: Any) -> None:
    bad = type("Bad", (Record,), {"__annotations__": {"thing": annotation}, "model_config": {"arbitrary_types_allowed": True}})
    with pytest.raises(UnsupportedTypeError, match=r"Bad\.thing"):
        bad.arrow_schema()


def test_numbers_become_text_for_text_fields_only() -> None:
    class Row(Record):
        text: str
        number: int

    assert Row.model_validate({"text": 72, "number": 1}).text == "72"
    with pytest.raises(ValueError, match="number"):
        Row.model_validate({"text": "x", "number": "one"})


def test_missing_and_mistyped_fields_are_named() -> None:
    class Needed(Record):
        question: str
        answer: str
        note: str | None = None

    class Given(Record):
        question: int
        extra: str

    problems = missing_fields(Needed, fields_of(Given.arrow_schema()))
    assert problems == ["field 'question' is int where str is needed", "field 'answer' (str) is missing"]
    assert missing_fields(Needed, fields_of(Needed.arrow_schema())) == []
