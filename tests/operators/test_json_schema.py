"""JSON values and schemas."""

from __future__ import annotations

from typing import Any

import pytest

from operators.json_schema import misfit, schema_problem

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
HOSTILE = "(a+)+$"
LONG = "a" * 60 + "b"
"""Takes the expression above longer than anyone waits."""


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"city": "Rome"}, None),
        ({}, "$: 'city' is a required property"),
        ({"city": 1}, "$.city: 1 is not of type 'string'"),
        ({"city": "Rome", "day": 1}, "$: Additional properties are not allowed ('day' was unexpected)"),
        ([], "$: [] is not of type 'object'"),
    ],
)
def test_a_value_that_does_not_fit_is_reported_with_its_place(value: Any, why: str | None) -> None:
    assert schema_problem(CITY) is None
    assert misfit(value, CITY) == why


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "objekt"}, "$.type: 'objekt' is not valid under any of the given schemas"),
        ({"type": "object", "required": "city"}, "$.required: 'city' is not of type 'array'"),
        ({"$schema": [1]}, "$['$schema']: [1] is not of type 'string'"),
        ({"description": "a" * 100_000}, "the schema has 100,019 characters; the limit is 100,000"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}, None),
    ],
)
def test_an_invalid_schema_is_reported(schema: dict[str, Any], why: str | None) -> None:
    assert schema_problem(schema) == why


def test_a_schema_is_of_the_draft_that_it_names() -> None:
    pair = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}
    assert misfit([1], pair) == "$[0]: 1 is not of type 'string'"
    assert schema_problem({"items": pair["items"]}) is not None


def test_a_deep_schema_is_a_problem_and_not_a_crash() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"not": deep}
    assert schema_problem(deep) == "it is nested too deeply"


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "#"}, "the schema refers to itself without end"),
        ({"$ref": "http://127.0.0.1:9/x"}, "the schema refers to 'http://127.0.0.1:9/x', which it does not have"),
        ({"$id": "http://127.0.0.1:9/", "$ref": "x"}, "the schema refers to 'x', which it does not have"),
        (
            {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
            "the schema refers to 'file:///etc/passwd', which it does not have",
        ),
    ],
)
def test_no_reference_leads_out_of_the_schema(schema: dict[str, Any], why: str) -> None:
    assert misfit({"a": LONG}, schema) == why


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": HOSTILE}}},
        {"patternProperties": {HOSTILE: {}}, "additionalProperties": False},
        {"allOf": [{"patternProperties": {HOSTILE: {}}}], "unevaluatedProperties": False},
        {"propertyNames": {"pattern": HOSTILE}},
    ],
)
def test_regular_expressions_are_not_searched(schema: dict[str, Any]) -> None:
    assert schema_problem(schema) is None
    assert misfit({"a": LONG, LONG: 1}, schema) is None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400])
def test_a_number_that_cannot_be_divided_does_not_fit(number: float) -> None:
    assert (misfit(number, {"multipleOf": 0.1}) or "").startswith("it cannot be tested: ")
