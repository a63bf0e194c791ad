"""Rows are read back by the class that wrote them without being validated again."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field, field_validator

from registry import Record
from registry.records.stored_rows import is_immutable, read_valid

MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.timezone(dt.timedelta(hours=2)))


class Color(enum.Enum):
    RED = "red"


class Inner(Record):
    score: float = Field(default=0.0, ge=0)
    when: dt.datetime | None = None


class Flat(Record):
    number: int
    text: str | None = None
    kind: Literal["a", "b"] = "a"
    when: dt.datetime = MOMENT
    day: dt.date = dt.date(2026, 1, 2)
    raw: bytes = b"\0"


class Deep(Record):
    inner: Inner
    more: list[Inner] = []
    texts: Annotated[list[str], Field(max_length=3)] = []


class Exotic(Record):
    color: Color = Color.RED
    pair: tuple[int, ...] = (1, 2)
    by_name: dict[str, Inner] = {}


class Louder(Record):
    text: str
    loud: Annotated[str, AfterValidator(str.upper)] = "x"

    @field_validator("text")
    @classmethod
    def _short(cls, text: str) -> str:
        if len(text) > 3:
            raise ValueError("too long")
        return text


@pytest.mark.parametrize(
    "rows",
    [
        [Flat(number=1), Flat(number=2, text="é", kind="b")],
        [Deep(inner=Inner(score=1.5, when=MOMENT), more=[Inner(), Inner(when=MOMENT)], texts=["a", "b"])],
        [Exotic(), Exotic(pair=(), by_name={"a": Inner(score=2)})],
        [Louder(text="a", loud="b")],
    ],
)
def test_rows_equal_those_of_validation(rows: list[Any]) -> None:
    record = type(rows[0])
    table = record.to_table(rows)
    read, validated = list(read_valid(record, table)), list(record.from_table(table))
    assert read == validated == rows
    for one, other in zip(read, validated, strict=True):
        assert repr(one) == repr(other)
        assert one.model_fields_set == other.model_fields_set
        assert one.model_dump_json() == other.model_dump_json()


def test_a_plain_type_is_not_validated_again_and_one_with_validators_is() -> None:
    wrong = Deep.model_construct(inner=Inner.model_construct(score=-1.0, when=None), more=[], texts=[])
    [read] = read_valid(Deep, Deep.to_table([wrong]))
    assert read.inner.score == -1
    with pytest.raises(ValueError, match="too long"):
        list(read_valid(Louder, Louder.to_table([Louder.model_construct(text="much", loud="X")])))


def test_only_records_of_scalars_are_immutable() -> None:
    assert is_immutable(Flat)
    assert is_immutable(Inner)
    assert not is_immutable(Deep)
    assert not is_immutable(Exotic)
