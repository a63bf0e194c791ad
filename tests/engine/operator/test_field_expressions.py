"""Fields that a parameter describes, as `types:` does: they are read, or their mistakes are reported with their places."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from engine.operator import FieldTypes, Params, field_problems, fields_of
from engine.operator.field_expressions import with_named_types
from registry.records.described import DescribedField, DescribedType


def test_fields_have_types_and_descriptions() -> None:
    given = {
        "why": {"type": "str", "description": "one sentence"},
        "score": "1 | 2 | 3",
        "tags": "list[str]?",
        "place": {"city": "str"},
    }
    assert field_problems(given, ("fields",)) == []
    why, score, tags, place = fields_of(given)
    assert (why.name, why.type, why.description) == ("why", DescribedType(kind="str"), "one sentence")
    assert score.type.words == (1, 2, 3)
    assert str(tags.type) == "list[str]?"
    assert str(place.type) == "{city: str}"


@pytest.mark.parametrize(
    ("given", "said", "at"),
    [
        ({}, "there are no fields", ()),
        ({"a": "string"}, "field 'a': there is no type 'string'; write str", ("a",)),
        ({"a": "Ticket"}, "field 'a': there is no type 'Ticket'", ("a",)),
        ({"a": {"type": "strr", "description": "x"}}, "field 'a': there is no type 'strr'", ("a", "type")),
        ({"a": {"type": "str", "description": 3}}, "field 'a': a description must be text", ("a", "description")),
        ({"a": {"b": "strr"}}, "field 'b': there is no type 'strr'", ("a", "b")),
        ({"a": ["str"]}, "write list[...] in quotes", ("a",)),
        ({"a": True}, "a word that YAML reads as a value needs quotes", ("a",)),
        ({"row": "str"}, "reserved for the row number", ("row",)),
        ({"model_dump": "str"}, "the name 'model_dump' is reserved", ("model_dump",)),
        ({"_a": "str"}, "starts with a letter", ("_a",)),
        ({"a": {"_described": {"kind": "nothing"}}}, "starts with a letter", ("a", "_described")),
        ({"a": {"_described": "str"}}, "starts with a letter", ("a", "_described")),
        ({"a": "str", "A": "str"}, "SQL cannot distinguish it from 'A'", ("a",)),
    ],
)
def test_mistakes_have_a_place(given: dict[str, Any], said: str, at: tuple[str, ...]) -> None:
    first = field_problems(given, ("fields",))[0]
    assert said in first.text
    assert first.at == ("fields", *at)


def test_a_key_given_as_a_type_is_not_shown() -> None:
    key = "sk-proj-" + "Ab1" * 12
    [problem] = field_problems({"a": [key]}, ("fields",))
    assert "is not a type" in problem.text
    assert key[:14] not in problem.text


class _Fields(Params):
    fields: Annotated[dict[str, Any], FieldTypes()]
    other: dict[str, Any] = {}


STEP = DescribedType(
    kind="struct",
    fields=(
        DescribedField(name="text", type=DescribedType(kind="str"), description="one sentence"),
        DescribedField(name="sure", type=DescribedType(kind="words", words=("low", "high"), optional=True)),
    ),
)


def test_a_marked_parameter_can_name_types_and_then_holds_what_they_consist_of() -> None:
    fields = {
        "why": "str",
        "steps": "list[Step]?",
        "first": {"type": "Step", "description": "the first"},
        "inner": {"type": "str", "more": "Step"},
    }
    given, wrong = with_named_types(_Fields, {"fields": fields, "other": {"a": "Step"}}, {"Step": STEP}.get, lambda: ["Step"])
    assert wrong == []
    assert given["other"] == {"a": "Step"}
    assert given["fields"]["why"] == "str"
    assert field_problems(given["fields"], ("fields",)) == []
    _, steps, first, inner = fields_of(given["fields"])
    assert steps.type == DescribedType(kind="list", item=STEP, optional=True)
    assert (first.type, first.description) == (STEP, "the first")
    assert inner.type.fields[1].type == STEP
    assert given["fields"]["steps"]["_described"]["item"]["fields"]["sure"]["words"] == ["low", "high"]


def test_an_unknown_type_is_reported_with_its_place_and_a_suggestion() -> None:
    given, wrong = with_named_types(_Fields, {"fields": {"a": {"b": "list[Setp]"}}}, {"Step": STEP}.get, lambda: ["Step"])
    assert [(each.text, each.at) for each in wrong] == [
        ("fields: field 'b': there is no type 'Setp'; did you mean 'Step'?", ("fields", "a", "b"))
    ]
    assert field_problems(given["fields"], ("fields",)) == []  # it is reported once
