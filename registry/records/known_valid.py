"""Recognises cheaply, for most records of scalars, that validation would change nothing in them.

Validation dumps a record and makes a new one, which costs an operator that makes many rows more than anything else.
"""

from __future__ import annotations

import datetime as dt
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from registry.records.record import Record
from registry.storage.valid_text import is_valid

Fits = Callable[[Any], bool]


def _any(_: Any) -> bool:
    return True


_SCALARS: Mapping[type, Fits] = {
    str: lambda text: text.isascii() or is_valid(text),
    int: lambda number: -(2**63) <= number < 2**63,
    float: _any,
    bool: _any,
    bytes: _any,
    dt.date: _any,
    dt.datetime: lambda moment: moment.tzinfo is dt.UTC,
}
"""Whether validation keeps a value of exactly this class, in a field of this class."""


_MISSING = object()

_DECORATORS = (
    "validators",
    "field_validators",
    "root_validators",
    "model_validators",
    "field_serializers",
    "model_serializers",
    "computed_fields",
)
_METHODS = {"__get_pydantic_core_schema__", "model_dump", "model_validate"}


def known_valid(record: Record) -> bool:
    """Whether validation would return a record with the same values; False also where that is not known."""
    checks = _checks(type(record))
    if checks is None:
        return False
    fields = record.__dict__
    for name, kinds in checks:
        value = fields.get(name, _MISSING)
        fits = kinds.get(type(value))
        if fits is None or not fits(value):
            return False
    return True


def checks_values_only(model: type[Record]) -> bool:
    """Whether validation of such a record only looks whether each value is of its field's type."""
    return _checks(model) is not None


@cache
def _checks(model: type[Record]) -> list[tuple[str, Mapping[type, Fits]]] | None:
    """By field, what a value of each class must be; None if validation may do more than look at the values."""
    marks, known = model.__pydantic_decorators__, Record.__pydantic_decorators__
    own = any(getattr(marks, kind).keys() - getattr(known, kind).keys() for kind in _DECORATORS)
    special = model.__pydantic_custom_init__ or model.__pydantic_post_init__ or model.__private_attributes__
    below = model.__mro__[: model.__mro__.index(Record)]
    overridden = any(vars(each).keys() & _METHODS for each in below)
    if own or special or overridden or model.model_config != Record.model_config:
        return None
    checks = []
    for name, info in model.model_fields.items():
        kinds = _kinds(info.annotation)
        if kinds is None or info.metadata or info.exclude or info.exclude_if:
            return None
        checks.append((name, kinds))
    return checks


def _kinds(annotation: Any) -> Mapping[type, Fits] | None:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        inner = _kinds(rest[0]) if len(rest) == 1 else None
        return inner and {**inner, type(None): _any}
    if origin is typing.Literal and len({type(arg) for arg in args}) == 1:
        return {type(args[0]): frozenset(args).__contains__}
    return {annotation: _SCALARS[annotation]} if annotation in _SCALARS else None
