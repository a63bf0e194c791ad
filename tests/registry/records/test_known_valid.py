"""Records of plain scalars are known to be valid without being validated."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, ConfigDict, Field, computed_field, field_serializer, model_validator

from registry import Record
from registry.records.known_valid import known_valid


class Flat(Record):
    number: int
    text: str | None = None
    kind: Literal["a", "b"] = "a"
    level: Literal[1, 2] = 1
    score: float = 0.0
    sure: bool = True
    when: dt.datetime = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    day: dt.date = dt.date(2026, 1, 2)
    raw: bytes = b"\0"


class Bounded(Record):
    score: float = Field(default=0.5, ge=0)


class Hidden(Record):
    score: float = Field(default=0.5, exclude=True)


class Upper(Record):
    text: Annotated[str, AfterValidator(str.upper)] = "x"


class Checked(Record):
    text: str = "x"

    @model_validator(mode="after")
    def _check(self) -> Checked:
        return self


class Dumped(Record):
    text: str = "x"

    @field_serializer("text")
    def _twice(self, text: str) -> str:
        return text * 2


class Computed(Record):
    text: str = "x"

    @computed_field
    def twice(self) -> str:
        """Twice."""
        return self.text * 2


class Stripped(Record):
    model_config = ConfigDict(str_strip_whitespace=True)

    text: str = "x"


class Listed(Record):
    texts: list[str] = []


@pytest.mark.parametrize(
    "fields", [{}, {"text": "é", "kind": "b", "level": 2, "score": float("inf")}, {"when": dt.datetime(2026, 1, 2)}]
)
def test_a_record_as_validation_made_it_is_valid(fields: dict[str, Any]) -> None:
    record = Flat(number=1, **fields)
    assert known_valid(record)
    again = Flat.model_validate(record.model_dump(), by_name=True, by_alias=False)
    assert Flat.to_table([again]).equals(Flat.to_table([record]))


@pytest.mark.parametrize(
    "changed",
    [
        {"number": True},
        {"number": "1"},
        {"number": 2**63},
        {"number": None},
        {"text": 1},
        {"text": "\ud800"},
        {"kind": "c"},
        {"kind": []},
        {"level": True},
        {"score": 1},
        {"sure": 1},
        {"when": dt.datetime(2026, 1, 2)},
        {"when": dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))},
        {"day": dt.datetime(2026, 1, 2)},
        {"raw": bytearray(b"x")},
    ],
)
def test_a_record_with_another_value_is_not_known_to_be_valid(changed: dict[str, Any]) -> None:
    assert not known_valid(Flat(number=1).model_copy(update=changed))


def test_a_record_without_a_field_is_not_known_to_be_valid() -> None:
    assert not known_valid(Flat.model_construct(text="x"))


@pytest.mark.parametrize("record", [Bounded, Hidden, Upper, Checked, Dumped, Computed, Stripped, Listed])
def test_types_whose_validation_does_more_are_not_known_to_be_valid(record: type[Record]) -> None:
    assert not known_valid(record())
