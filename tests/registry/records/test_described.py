"""Record types as data."""

from __future__ import annotations

import datetime as dt
from typing import Literal

import pyarrow as pa
import pytest
from pydantic import BaseModel, ValidationError

from registry import Record, UnsupportedTypeError
from registry.records.described import Described, DescribedField, DescribedType, described, description_of, extended, narrowed
from registry.records.schema import described_fields, fields_of_type


class Part(BaseModel):
    """A model inside a record."""

    at: dt.datetime
    tags: list[str] = []


class Whole(Record):
    """One field of every kind."""

    text: str
    level: Literal["low", "high"] | None = None
    numbers: dict[str, float]
    parts: list[Part]
    day: dt.date | None
    raw: bytes
    ok: bool
    count: int


def row() -> Whole:
    part = Part(at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC))
    return Whole(text="a", numbers={"x": 1.5}, parts=[part], day=None, raw=b"\0", ok=True, count=2)


def test_a_described_type_stores_rows_as_the_class_does() -> None:
    made = described(Whole).record()
    assert made.arrow_schema().equals(Whole.arrow_schema(), check_metadata=True)
    table = Whole.to_table([row()])
    again = made.to_table(made.from_table(table))
    assert again.equals(table)
    with pytest.raises(ValidationError, match="'low' or 'high'"):
        made.model_validate(row().model_dump() | {"level": "middle"})


def test_equal_descriptions_give_one_class_also_from_json() -> None:
    about = described(Whole)
    again = Described.model_validate_json(about.model_dump_json())
    assert again.record() is about.record()
    assert description_of(about.record()) == about
    assert description_of(Whole) is None


def test_types_follow_from_others() -> None:
    reply = DescribedField(name="reply", type=DescribedType(kind="str"))
    longer = extended(Whole, [reply])
    assert longer.type_name() == "Whole+reply"
    assert [*longer.model_fields] == [*Whole.model_fields, "reply"]
    assert extended(longer, [reply]) is longer
    assert extended(Whole, [DescribedField(name="text", type=DescribedType(kind="int"))]).model_fields["text"].annotation is int
    assert [*narrowed(longer, ["reply", "text"]).model_fields] == ["reply", "text"]
    assert narrowed(Whole, Whole.model_fields) is Whole


def test_a_type_is_rebuilt_from_the_labels_of_a_version() -> None:
    made = described_fields("Whole", fields_of_type(Whole)).record()
    assert fields_of_type(made) == fields_of_type(Whole)
    assert pa.types.is_struct(made.arrow_schema().field("parts").type.value_type)


@pytest.mark.parametrize("name", ["_id", "", "model_dump", "to_table", 'a"b', "a\nb"])
def test_names_that_no_field_can_have(name: str) -> None:
    field = DescribedField(name=name, type=DescribedType(kind="str"))
    with pytest.raises(UnsupportedTypeError):
        Described(name="X", fields=(field,)).record()


@pytest.mark.parametrize("name", ["json", "schema", "copy", "dict", "a b", "größe", "class"])
@pytest.mark.filterwarnings("error")
def test_names_that_a_field_can_have(name: str) -> None:
    made = Described(name="X", fields=(DescribedField(name=name, type=DescribedType(kind="str")),)).record()
    table = made.to_table([made.model_validate({name: "v"})])
    assert [each.model_dump() for each in made.from_table(table)] == [{name: "v"}]
