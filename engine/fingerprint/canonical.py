"""Canonical texts of values: the same text whenever the value is the same, in any process."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import fractions
import pathlib
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

TextOf = Callable[[Any], str | None]

_PLAIN = (str, int, float, complex, bytes, bool, type(None), type(Ellipsis))
_SPELLED = (range, dt.datetime, dt.date, dt.time, dt.timedelta, decimal.Decimal, fractions.Fraction, pathlib.PurePath)


def canonical(value: Any, code: TextOf, path: TextOf) -> str | None:
    """The canonical text of a value, or None if it has none.

    Args:
        value: plain data, containers of it, enums, patterns, dataclasses, pydantic models, types.
        code: returns the text of functions, classes and other code that the value refers to; None for other values.
        path: is asked about texts and paths; returns the text of one that depends on where the code is, None for others.
    """

    def inside(part: Any) -> str:
        text = canonical(part, code, path)
        if text is None:
            raise _NoTextError
        return text

    try:
        placed = path(value) if isinstance(value, (str, pathlib.PurePath)) else None
        return _text(value, inside, code) if placed is None else placed
    except _NoTextError:
        return None


class _NoTextError(Exception):
    pass


def _text(value: Any, inside: Callable[[Any], str], code: TextOf) -> str | None:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, enum.Enum):
        return f"{code(type(value))}.{value.name}"
    if isinstance(value, _PLAIN) or type(value) in _SPELLED or isinstance(value, pathlib.PurePath):
        return f"{kind}:{value!r}"
    if typing.get_origin(value) is not None:
        return f"{typing.get_origin(value)!r}[{','.join(map(inside, _arguments(value)))}]"
    if is_bare_typing(value):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"{kind}[{','.join(map(inside, value))}]"
    if isinstance(value, set | frozenset):
        return f"{kind}[{','.join(sorted(map(inside, value)))}]"
    if isinstance(value, Mapping):
        # The order of a mapping can be visible in a prompt, so it counts.
        return f"{kind}[{','.join(f'{inside(key)}={inside(item)}' for key, item in value.items())}]"
    if isinstance(value, re.Pattern):
        return f"re:{value.pattern!r}:{value.flags}"
    if isinstance(value, FieldInfo):
        default = "" if value.default is PydanticUndefined else inside(value.default)
        return f"field[{inside(value.annotation)},{inside(value.metadata)},{default}]"
    if isinstance(value, BaseModel):
        return f"{code(type(value))}[{','.join(f'{name}={inside(item)}' for name, item in value)}]"
    if is_dataclass(value) and not isinstance(value, type):
        named = ",".join(f"{each.name}={inside(getattr(value, each.name))}" for each in fields(value))
        return f"{code(type(value))}[{named}]"
    return code(value)


def _arguments(value: Any) -> tuple[Any, ...]:
    """The arguments of a type, including the metadata of Annotated."""
    return (*typing.get_args(value), *getattr(value, "__metadata__", ()))


def is_bare_typing(value: Any) -> bool:
    """Whether a value is `Any`, `Self` or a type variable: names of the type system without content."""
    return type(value).__module__ == "typing" and typing.get_origin(value) is None
