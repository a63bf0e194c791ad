"""Fields that a parameter describes as `types:` in a pipeline file does: `{score: int, why: {type: str, description: ...}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.credentials import redacted
from engine.operator.type_expressions import TypeExpressionError, parse_type
from engine.operator.types import Wrong
from registry.errors import UnsupportedTypeError
from registry.records.described import Described, DescribedField, DescribedType, name_problem

_KEYS = {"type", "description"}
_SHOWN = 100


def fields_of(given: Mapping[str, Any]) -> tuple[DescribedField, ...]:
    """The fields that a parameter without problems describes.

    The types are those of `types:` (`int`, `list[str]`, `low | medium | high`, `str?`), or further fields: `{a: {b: int}}`.
    A parameter cannot name types of the file or of packages: it is read again where the operator runs, without them.
    """
    problems, fields = _read(given, ())
    assert not problems, problems
    return fields


def field_problems(given: Mapping[str, Any], at: tuple[str | int, ...]) -> list[Wrong]:
    """What is wrong with fields that a parameter describes.

    Args:
        given: the parameter.
        at: its place below `with`.
    """
    problems, fields = _read(given, at)
    if problems:
        return problems
    try:
        Described(name="Answer", fields=fields).record()
    except UnsupportedTypeError as error:
        return [Wrong(str(error), at)]
    return []


def _read(given: Mapping[str, Any], at: tuple[str | int, ...]) -> tuple[list[Wrong], tuple[DescribedField, ...]]:
    problems: list[Wrong] = []
    made: list[DescribedField] = []
    if not given:
        problems.append(Wrong("there are no fields", at))
    for name, value in given.items():
        place = (*at, name)
        if why := _name_problem(name, given):
            problems.append(Wrong(f"field {name!r}: {why}", place))
            continue
        wrong, about, description = _type(name, value, place)
        problems += wrong
        if about is not None:
            made.append(DescribedField(name=name, type=about, description=description))
    return problems, tuple(made)


def _name_problem(name: str, given: Mapping[str, Any]) -> str | None:
    if same := [other for other in given if other.lower() == name.lower() and other != name]:
        return f"SQL cannot distinguish it from {same[0]!r}; rename one of them"
    if name.lower() in ("row", "_row"):
        return "this name is reserved for the row number; choose another one"
    return name_problem(name)


def _type(name: str, value: Any, at: tuple[str | int, ...]) -> tuple[list[Wrong], DescribedType | None, str]:
    description = ""
    if isinstance(value, dict) and "type" in value and value.keys() <= _KEYS:
        text = value.get("description")
        if text is not None and not isinstance(text, str):
            return [Wrong(f"field {name!r}: a description is a text", (*at, "description"))], None, ""
        value, description, at = value["type"], text or "", (*at, "type")
    if isinstance(value, dict):
        problems, fields = _read(value, at)
        return problems, None if problems else DescribedType(kind="struct", fields=fields), description
    if not isinstance(value, str):
        hint = "write list[...] in quotes" if isinstance(value, list) else "a word that YAML reads as a value needs quotes"
        return [Wrong(f"field {name!r}: {redacted(repr(value))[:_SHOWN]} is not a type; {hint}", at)], None, ""
    try:
        return [], parse_type(value, lambda _: None, list), description
    except TypeExpressionError as error:
        return [Wrong(f"field {name!r}: {error}", at)], None, ""
