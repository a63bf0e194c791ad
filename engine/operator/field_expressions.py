"""Fields that a parameter describes as `types:` in a pipeline file does: `{score: int, why: {type: str, description: ...}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.operator.type_expressions import FieldError, TypeExpressionError, parse_type, read_field
from engine.operator.types import Wrong
from registry.errors import UnsupportedTypeError
from registry.records.described import Described, DescribedField, DescribedType, field_name_problem


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
        if why := field_name_problem(name, given):
            problems.append(Wrong(f"field {name!r}: {why}", place))
            continue
        try:
            field = read_field(value)
            if isinstance(field.type, str):
                about = parse_type(field.type, lambda _: None, list)
            else:
                wrong, inner = _read(field.type, (*place, *field.at))
                problems += wrong
                about = DescribedType(kind="struct", fields=inner)
        except FieldError as error:
            hint = f"; {error.hint}" if error.hint else ""
            problems.append(Wrong(f"field {name!r}: {error}{hint}", (*place, *error.at)))
        except TypeExpressionError as error:
            problems.append(Wrong(f"field {name!r}: {error}", (*place, *field.at)))
        else:
            made.append(DescribedField(name=name, type=about, description=field.description))
    return problems, tuple(made)
