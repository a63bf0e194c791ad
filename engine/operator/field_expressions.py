"""Fields that a parameter describes as `types:` in a pipeline file does: `{score: int, why: {type: str, description: ...}}`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from engine.operator.type_expressions import FieldError, TypeExpressionError, parse_type, read_field
from engine.operator.types import Wrong
from registry.errors import UnsupportedTypeError
from registry.records.described import Described, DescribedField, DescribedType, field_name_problem

_DESCRIBED = "_described"
"""The key of a type that `with_named_types` has resolved; no field can have this name."""


@dataclass(frozen=True)
class FieldTypes:
    """Marks a parameter that describes fields, so that it can name types of the pipeline file and of packages.

    Example:
        fields: Annotated[dict[str, Any] | None, FieldTypes()] = None
    """


def with_named_types(
    params: type[BaseModel],
    given: Mapping[str, Any],
    named: Callable[[str], DescribedType | None],
    known: Callable[[], list[str]],
) -> tuple[dict[str, Any], list[Wrong]]:
    """Parameters with what the types that they name consist of, and what is wrong with expressions that name types.

    The result says what rows are without the pipeline file, as a step key and a worker need it.

    Args:
        params: the class of the parameters, of which those with the mark FieldTypes can name types.
        given: the parameters of a step.
        named, known: as for `parse_type`.
    """
    problems: list[Wrong] = []

    def resolved(value: Any, at: tuple[str | int, ...], field: str) -> Any:
        try:
            about = read_field(value)
        except FieldError:
            return value  # `field_problems` reports it
        if about.at:
            return {**value, "type": resolved(about.type, (*at, *about.at), field)}
        if isinstance(about.type, dict):
            return {name: resolved(each, (*at, name), name) for name, each in value.items()}
        used: list[str] = []

        def noted(name: str) -> DescribedType | None:
            used.append(name)
            return named(name)

        try:
            found = parse_type(value, noted, known)
        except TypeExpressionError as error:
            if not used:
                return value  # `field_problems` reports it
            problems.append(Wrong(f"{at[0]}: field {field!r}: {error}", at))
            found = DescribedType(kind="str")
        return {_DESCRIBED: _packed(found)} if used else value

    marked = _marked(params, given)
    made = {
        name: resolved(value, (name,), name) if name in marked and isinstance(value, dict) else value
        for name, value in given.items()
    }
    return made, problems


def _packed(about: DescribedType) -> dict[str, Any]:
    """A type as data, with fields by name, so that `engine plan --why` can say which one changed."""
    made = about.model_dump(mode="json", exclude_defaults=True, exclude={"item", "fields"})
    if about.item:
        made["item"] = _packed(about.item)
    if about.fields:
        made["fields"] = {
            each.name: _packed(each.type) | ({"description": each.description} if each.description else {})
            for each in about.fields
        }
    return made


def _unpacked(given: Mapping[str, Any]) -> DescribedType:
    own = {name: value for name, value in given.items() if name not in ("item", "fields", "description")}
    fields = [
        DescribedField(name=name, type=_unpacked(each), description=each.get("description", ""))
        for name, each in given.get("fields", {}).items()
    ]
    item = _unpacked(given["item"]) if "item" in given else None
    return DescribedType.model_validate({**own, "item": item, "fields": fields})


def _marked(params: type[BaseModel], given: Iterable[str]) -> set[str]:
    fields = params.model_fields
    return {name for name in given if name in fields and any(isinstance(each, FieldTypes) for each in fields[name].metadata)}


def fields_of(given: Mapping[str, Any]) -> tuple[DescribedField, ...]:
    """The fields that a parameter without problems describes.

    The types are those of `types:` (`int`, `list[str]`, `low | medium | high`, `str?`), or further fields: `{a: {b: int}}`.
    A parameter with the mark FieldTypes can name types of the file and of packages.
    """
    problems, fields = _read(given, ())
    assert not problems, problems
    return fields


def field_order(params: BaseModel) -> dict[str, list[str]]:
    """The names of the fields that parameters with the mark FieldTypes describe, in the order in which a model answers them."""
    marked = _marked(type(params), type(params).model_fields)
    return {name: list(value) for name in marked if isinstance(value := getattr(params, name), dict)}


def field_problems(given: Mapping[str, Any], at: tuple[str | int, ...]) -> list[Wrong]:
    """What is wrong with fields that a parameter describes.

    Args:
        given: the value of the parameter.
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
        if why := field_name_problem(name, given):
            problems.append(Wrong(f"field {name!r}: {why}", place))
            continue
        try:
            field = read_field(value)
            if isinstance(field.type, str):
                about = parse_type(field.type, lambda _: None, list)
            else:
                about, wrong = _object(field.type, (*place, *field.at))
                problems += wrong
        except FieldError as error:
            hint = f"; {error.hint}" if error.hint else ""
            problems.append(Wrong(f"field {name!r}: {error}{hint}", (*place, *error.at)))
        except TypeExpressionError as error:
            problems.append(Wrong(f"field {name!r}: {error}", (*place, *field.at)))
        else:
            made.append(DescribedField(name=name, type=about, description=field.description))
    return problems, tuple(made)


def _object(given: Mapping[str, Any], at: tuple[str | int, ...]) -> tuple[DescribedType, list[Wrong]]:
    """The type of a value with fields, or of one whose named types `with_named_types` has resolved."""
    if given.keys() == {_DESCRIBED}:
        try:
            return _unpacked(given[_DESCRIBED]), []
        except (ValidationError, AttributeError, TypeError):  # the user wrote such a key
            pass
    problems, fields = _read(given, at)
    return DescribedType(kind="struct", fields=fields), problems
