"""Records survive storage; fields that cannot be stored are named; a type may grow, and older versions stay readable."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import FrozenInstanceError
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, create_model

from registry import ObjectStore, Record, UnsupportedTypeError
from registry.errors import IncompatibleError
from registry.records.schema import ensure_readable, fields_of, missing_fields


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


@settings(max_examples=5)  # tests/registry/records/test_round_trip.py draws the types, too
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


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    text: str


class Nothing(BaseModel):
    pass


class Node(BaseModel):
    children: list[Node]


class Loud(BaseModel):
    text: str
    Text: str


class Mixed(enum.Enum):
    one = 1
    two = "2"


class Big(enum.IntEnum):
    big = 2**63


@pytest.mark.parametrize(
    "annotation",
    [
        Any,
        object,
        int | str,
        set[str],
        dict[int, str],
        complex,
        tuple[int, str],
        Literal[1, "a"],
        Literal[2**63],
        Mixed,
        Big,
        Open,
        Nothing,
        Node,
        Loud,
        RootModel[list[int]],
        list[dict[str, Open | None]],
    ],
)
def test_a_type_that_cannot_be_stored_is_refused_with_the_fields_name(annotation: Any) -> None:
    bad = type("Bad", (Record,), {"__annotations__": {"thing": annotation}, "model_config": {"arbitrary_types_allowed": True}})
    with pytest.raises(UnsupportedTypeError, match=r"Bad\.thing"):
        bad.arrow_schema()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["row"], "Bad.row: this name is reserved"),
        (["Row"], "Bad.Row: this name is reserved"),
        (["text", "Text"], "SQL cannot distinguish the names 'text' and 'Text'"),
        ([], "Bad has no fields"),
    ],
)
def test_names_that_sql_cannot_distinguish_are_refused(fields: list[str], words: str) -> None:
    bad = create_model("Bad", __base__=Record, **dict.fromkeys(fields, (str, "")))
    with pytest.raises(UnsupportedTypeError, match=words):
        bad.arrow_schema()


class Plain(BaseModel):
    counts: list[int] = []
    at: dt.datetime | None = None


class Values(Record):
    text: str = ""
    number: int | None = None
    inner: Plain = Plain()
    scores: dict[str, list[int]] = {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"number": 2**63}, "number: 9223372036854775808 does not fit into 64 bits"),
        ({"inner": {"counts": [1, -(2**63) - 1]}}, "inner: counts: -9223372036854775809 does not fit"),
        ({"scores": {"a": [2**63]}}, "scores: .* does not fit"),
        ({"text": "half \ud83d"}, "text: it contains an unpaired surrogate"),
        ({"scores": {"\ud83d": []}}, "scores: it contains an unpaired surrogate"),
        ({"inner": {"at": "0001-01-01T00:00:00+05:00"}}, "inner: at: .* outside the years 1 to 9999 in UTC"),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused_when_the_record_is_made(value: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Values.model_validate(value)


def test_a_datetime_is_stored_in_utc_and_assumed_to_be_utc_without_a_zone() -> None:
    berlin = Values(inner={"at": "2024-07-01T12:00:00+02:00"})
    bare = Values(inner={"at": "2024-07-01T10:00:00"})
    assert berlin == bare
    assert berlin.inner.at == dt.datetime(2024, 7, 1, 10, tzinfo=dt.UTC)


def test_all_fields_are_stored_under_their_own_names() -> None:
    class Aliased(Record):
        model_config = ConfigDict(strict=True)
        text: str = Field(alias="Text", exclude=True)
        colour: Colour
        words: tuple[str, ...]

    row = Aliased(Text="x", colour=Colour.red, words=("a",))
    table = Aliased.to_table([row])
    assert table.schema.names == ["text", "colour", "words"]
    assert list(Aliased.from_table(table)) == [row]


def test_numbers_become_text_for_text_fields_only() -> None:
    class Row(Record):
        text: str
        number: int

    assert Row.model_validate({"text": 72, "number": 1}).text == "72"
    with pytest.raises(ValueError, match="number"):
        Row.model_validate({"text": "x", "number": "one"})


def test_a_row_cannot_be_changed() -> None:
    class Said(Record):
        text: str

    row = Said(text="a")
    with pytest.raises(FrozenInstanceError, match=r"a row of type Said .* `row.model_copy\(update={'text': ...}\)`"):
        row.text = "b"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="Said cannot be changed"):
        del row.text
    with pytest.raises(FrozenInstanceError, match="Said cannot be changed, and its type has no field 'note'"):
        row.note = "b"  # type: ignore[attr-defined]
    assert row == Said(text="a")


def test_missing_and_mistyped_fields_are_named() -> None:
    class Needed(Record):
        question: str
        answer: str
        note: str | None = None

    class Given(Record):
        question: int
        extra: str

    problems = missing_fields(Needed, fields_of(Given.arrow_schema()))
    assert problems == ["field 'question' is int, but must be str", "field 'answer' (str) is missing"]
    assert missing_fields(Needed, fields_of(Needed.arrow_schema())) == []


# -- versions outlive classes -----------------------------------------------------------------------------------------


class OldTurn(Record):
    role: str
    content: str


class OldTalk(Record):
    turns: list[OldTurn]
    by_topic: dict[str, OldTurn] = {}


class NewTurn(Record):
    role: str
    content: str
    name: str | None = None
    tags: list[str] = ["old"]


class NewTalk(Record):
    turns: list[NewTurn]
    by_topic: dict[str, NewTurn] = {}
    judge: NewTurn | None = None
    greeting: NewTurn = NewTurn(role="system", content="hello")
    at: dt.datetime = dt.datetime(2024, 1, 1)


OLD = OldTalk(turns=[OldTurn(role="user", content="q")], by_topic={"t": OldTurn(role="user", content="q")})
GROWN = NewTalk(turns=[NewTurn(role="user", content="q")], by_topic={"t": NewTurn(role="user", content="q")})


def test_an_older_version_is_read_with_the_defaults_of_new_fields() -> None:
    table = OldTalk.to_table([OLD])
    assert missing_fields(NewTalk, fields_of(table.schema)) == []
    assert list(NewTalk.from_table(table)) == [GROWN]
    conformed = NewTalk.conform(table)
    assert conformed.schema == NewTalk.arrow_schema()
    assert list(NewTalk.from_table(conformed)) == [GROWN]


def test_a_newer_version_is_read_as_the_older_type() -> None:
    table = NewTalk.to_table([GROWN])
    assert missing_fields(OldTalk, fields_of(table.schema)) == []
    assert list(OldTalk.from_table(table)) == [OLD]
    assert OldTalk.conform(table).equals(OldTalk.to_table([OLD]))


def test_missing_fields_of_an_older_version_are_filled_in_and_the_rest_stays() -> None:
    class Before(Record):
        text: str

    class After(Record):
        text: str
        note: str | None = None
        turns: list[NewTurn] = [NewTurn(role="user", content="x")]

    table = After.conform(Before.to_table([Before(text="a"), Before(text="b")]))
    assert list(After.from_table(table)) == [After(text="a"), After(text="b")]


def test_an_incompatible_change_is_refused_with_every_reason() -> None:
    class Turn(Record):
        role: str
        content: list[str]
        author: str

    class Talk(Record):
        turns: list[Turn]
        by_topic: dict[str, int]
        length: int

    with pytest.raises(IncompatibleError) as refused:
        ensure_readable(Talk, fields_of(OldTalk.arrow_schema()), "demo/talks@1 (OldTalk)")
    assert str(refused.value).split("; ") == [
        "demo/talks@1 (OldTalk) cannot be read as Talk: field 'turns[].content' is str, but must be list[str]",
        "field 'turns[].author' (str) is missing",
        "field 'by_topic[].value' is {role: str, content: str}, but must be int",
        "field 'length' (int) is missing",
    ]
    with pytest.raises(ValidationError, match="author"):
        list(Talk.from_table(OldTalk.to_table([OLD])))


def test_a_required_field_is_not_read_from_an_optional_one() -> None:
    class Loose(Record):
        words: list[str | None]

    class Tight(Record):
        words: list[str]

    assert missing_fields(Loose, fields_of(Tight.arrow_schema())) == []
    [problem] = missing_fields(Tight, fields_of(Loose.arrow_schema()))
    assert problem == "field 'words[]' is str?, but must be str"
    assert Loose.conform(Tight.to_table([Tight(words=["a"])])).equals(Loose.to_table([Loose(words=["a"])]))
