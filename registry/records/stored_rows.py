"""Makes records from rows that their own class wrote, without validating them again.

Only for types whose values are decided by their annotations: for a type with validators, private attributes, enums, tuples
or dicts, only validation knows how a value is read.
"""

from __future__ import annotations

import datetime as dt
import types
import typing
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

import pyarrow as pa
from annotated_types import BaseMetadata, GroupedMetadata
from pydantic import BaseModel

from registry.records.record import Record

R = TypeVar("R", bound=Record)
Convert = Callable[[Any], Any]

_UNCONVERTED = (str, int, float, bool, bytes, dt.date)


def read_valid(record: type[R], table: pa.Table) -> Iterator[R]:
    """The rows of a table that `record` itself wrote."""
    build = _builder(record)
    if build is None:
        yield from record.from_table(table)
        return
    names = list(record.model_fields)
    columns = [table.column(name).to_pylist() for name in names]
    for values in zip(*columns, strict=True):
        yield build(dict(zip(names, values, strict=True)))


@cache
def is_immutable(record: type[BaseModel]) -> bool:
    """Whether no part of such a record can change after validation."""
    return all(_kind(info.annotation) in (*_UNCONVERTED, dt.datetime) for info in record.model_fields.values())


@cache
def _builder(model: type[BaseModel]) -> Convert | None:
    """Makes a model from its stored fields; None where only validation can."""
    marks = model.__pydantic_decorators__
    own = {*marks.field_validators, *marks.model_validators, *marks.validators, *marks.root_validators}
    own -= Record.__pydantic_decorators__.model_validators.keys()  # it checks that a value can be stored
    if own or model.__pydantic_custom_init__ or model.__pydantic_post_init__ or model.__private_attributes__:
        return None
    converts: list[tuple[str, Convert]] = []
    for name, info in model.model_fields.items():
        if not _only_constraints(info.metadata):
            return None
        convert = _convert(info.annotation)
        if convert is None:
            return None
        if convert is not _same:
            converts.append((name, convert))
    set_field, new = object.__setattr__, model.__new__

    def build(fields: dict[str, Any]) -> BaseModel:
        for name, convert in converts:
            fields[name] = convert(fields[name])
        made = new(model)
        set_field(made, "__dict__", fields)
        set_field(made, "__pydantic_fields_set__", set(fields))
        set_field(made, "__pydantic_extra__", None)
        set_field(made, "__pydantic_private__", None)
        return made

    return build


def _convert(annotation: Any) -> Convert | None:
    """From a stored value to a valid one; None where only validation can."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _convert(args[0]) if _only_constraints(args[1:]) else None
    if origin in (typing.Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        inner = _convert(rest[0]) if len(rest) == 1 else None
        return inner and (inner if inner is _same else lambda value: None if value is None else inner(value))
    if origin is list:
        item = _convert(args[0])
        return item and (item if item is _same else lambda values: [item(value) for value in values])
    if _kind(annotation) in _UNCONVERTED:
        return _same
    if annotation is dt.datetime:
        return lambda moment: moment.astimezone(dt.UTC)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _builder(annotation)
    return None


def _kind(annotation: Any) -> Any:
    """The class of a scalar annotation's values; None for others."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(args[0])
    if origin in (typing.Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        return _kind(rest[0]) if len(rest) == 1 else None
    if origin is typing.Literal:
        return type(args[0])
    return annotation if annotation in (*_UNCONVERTED, dt.datetime) else None


def _only_constraints(metadata: Any) -> bool:
    return all(isinstance(each, BaseMetadata | GroupedMetadata) for each in metadata)


def _same(value: Any) -> Any:
    return value
