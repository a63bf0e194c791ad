"""Prepares raw values of files for their record type, without changing their meaning.

* A number for a text field keeps its text in the file: 3.1415926535897932384626 keeps its 22 digits, 12.50 its zero, and a
  float32 of 0.1 is 0.1.
* Numbers must be finite, as in JSON.
* Keys that the type does not have are dropped at every depth, and reported by their path, such as `prompt[].audio`, where they
  have values: files with columns give every object the keys of all others.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from pydantic import AliasChoices, BaseModel

Report = Callable[[str], None]
Coerce = Callable[[Any, Report], Any]


class UnfitError(ValueError):
    """A value does not fit; the text says which and why."""


class Number(float):
    """A float that remembers the text it was read from."""

    text: str

    def __new__(cls, text: str) -> Number:
        """Raises ValueError if it is not a number."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def coerced(record: type[BaseModel], fields: dict[str, Any], report: Report) -> dict[str, Any]:
    """The fields that the type has, ready for validation; `report` is called with the path of every other one.

    Raises:
        UnfitError: a value cannot be read as its field's type.
    """
    converted: dict[str, Any] = _model(record)(fields, report)
    return converted


@cache
def _model(model: type[BaseModel]) -> Coerce:
    parts: dict[str, Coerce | None] = {}
    for name, info in model.model_fields.items():
        convert = _of(info.annotation, name)
        for key in {name, *_aliases(info.validation_alias)}:
            parts[key] = convert

    def convert_all(value: Any, report: Report) -> Any:
        if not isinstance(value, dict):
            return value
        for key in value.keys() - parts.keys():
            if value[key] is not None:
                report(str(key))
        known = {}
        for key, inner in value.items():
            if key in parts:
                convert = parts[key]
                known[key] = convert(inner, report) if convert else inner
        return known

    return convert_all


def _aliases(alias: Any) -> list[str]:
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [each if isinstance(each, str) else str(each.path[0]) for each in choices if each is not None]


def _of(annotation: Any, path: str) -> Coerce | None:
    """How a value of this annotation is converted; None if it is not."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _of(args[0], path)
    if origin in (typing.Union, types.UnionType):
        [inner, *more] = [arg for arg in args if arg is not type(None)]
        return _of(inner, path) if not more else None
    if origin in (list, tuple):
        return _each(_of(args[0], ""), path)
    if origin is dict:
        return _values(_of(args[1], path))
    if annotation in (str, int, float):
        kind = {str: _text, int: _whole, float: _finite}[annotation]
        return lambda value, report: kind(value, path)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _below(_model(annotation), path)
    return None


def _each(convert: Coerce | None, path: str) -> Coerce | None:
    if convert is None:
        return None

    def items(value: Any, report: Report) -> Any:
        def inside(name: str) -> None:
            report(f"{path}[]{name}")

        try:
            return [convert(item, inside) for item in value] if isinstance(value, list | tuple) else value
        except UnfitError as error:
            raise UnfitError(f"{path}{error}") from None

    return items


def _values(convert: Coerce | None) -> Coerce | None:
    if convert is None:
        return None
    return lambda value, report: (
        {key: convert(item, report) for key, item in value.items()} if isinstance(value, dict) else value
    )


def _below(convert: Coerce, path: str) -> Coerce:
    def fields(value: Any, report: Report) -> Any:
        try:
            return convert(value, lambda name: report(f"{path}.{name}"))
        except UnfitError as error:
            raise UnfitError(f"{path}.{error}") from None

    return fields


def _text(value: Any, path: str) -> Any:
    if isinstance(value, Number):
        _finite(value, path)
        return value.text
    if isinstance(value, float):
        return repr(_finite(value, path))
    if isinstance(value, Decimal):
        return format(_finite(value, path), "f")
    return value


def _whole(value: Any, path: str) -> Any:
    """9007199254740993.0 is a whole number that no float can represent."""
    if isinstance(value, Number) and value.is_integer() and abs(value) < 2**64 and len(value.text) < 64:
        try:
            exact = Decimal(value.text)
        except InvalidOperation:  # an absurd exponent
            return value
        return int(exact) if exact == exact.to_integral_value() else value
    return value


def _finite(value: Any, path: str) -> Any:
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value  # validation reports it
    if isinstance(number, float | Decimal) and not math.isfinite(number):
        if isinstance(value, Number):
            raise UnfitError(f"{path}: {value.text:.40} is beyond the range of numbers (1.8e308)")
        raise UnfitError(f"{path}: {value} is not a finite number; omit the field, or use null")
    return value
