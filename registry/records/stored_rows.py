"""Makes records from rows that their own class wrote, without validating them again.

Only for types whose values are decided by their annotations: for a type with validators, private attributes, enums, tuples
or dicts, only validation knows how a value is read.
"""

from __future__ import annotations

import datetime as dt
import types
import typing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import repeat
from typing import Any, TypeVar

import pyarrow as pa
from annotated_types import BaseMetadata, GroupedMetadata
from pydantic import BaseModel

from registry.records.record import Record

R = TypeVar("R", bound=Record)
M = TypeVar("M", bound=BaseModel)
Convert = Callable[[Any], Any]

_SETTERS: list[Callable[[Any, Any], None]] = [
    vars(BaseModel)[slot].__set__
    for slot in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
]
"""What a model consists of. The set of given fields is shared by the rows of a table: copies of a model copy it, and nothing
that a model offers changes it once all fields are in it."""

_AT_ONCE = 1024
"""Rows that are made together."""

_UNCONVERTED = (str, int, float, bool, bytes, dt.date)


def reads_as_stored(record: type[BaseModel]) -> bool:
    """Whether `read_valid` makes such records without validation: then they say what the table says."""
    return _converts(record) is not None


def read_valid(record: type[R], table: pa.Table) -> Iterator[R]:
    """The rows of a table that `record` itself wrote."""
    converts = _converts(record)
    if converts is None:
        yield from record.from_table(table)
        return
    for start in range(0, table.num_rows, _AT_ONCE):
        piece = table.slice(start, _AT_ONCE)
        columns = {name: piece.column(name).to_pylist() for name in record.model_fields}
        for name, convert in converts.items():
            columns[name] = [convert(value) for value in columns[name]]
        fields: list[dict[str, Any]] = [{} for _ in range(piece.num_rows)]
        for name, values in columns.items():
            for each, value in zip(fields, values, strict=True):
                each[name] = value
        yield from _made(record, fields)


@cache
def is_immutable(record: type[BaseModel]) -> bool:
    """Whether no part of such a record can change after validation."""
    return all(_kind(info.annotation) in (*_UNCONVERTED, dt.datetime) for info in record.model_fields.values())


@cache
def _converts(model: type[BaseModel]) -> dict[str, Convert] | None:
    """How the values of a model's stored fields are converted, where they are; None if only validation can tell."""
    marks = model.__pydantic_decorators__
    own = {*marks.field_validators, *marks.model_validators, *marks.validators, *marks.root_validators}
    own -= Record.__pydantic_decorators__.model_validators.keys()  # it checks that a value can be stored
    if own or model.__pydantic_custom_init__ or model.__pydantic_post_init__ or model.__private_attributes__:
        return None
    converts: dict[str, Convert] = {}
    for name, info in model.model_fields.items():
        if not _only_constraints(info.metadata):
            return None
        convert = _convert(info.annotation)
        if convert is None:
            return None
        if convert is not _same:
            converts[name] = convert
    return converts


def _model(model: type[BaseModel]) -> Convert | None:
    """Makes a model inside a record from its stored fields; None where only validation can."""
    converts = _converts(model)
    if converts is None:
        return None

    names = set(model.model_fields)

    def build(fields: dict[str, Any]) -> BaseModel:
        for name, convert in converts.items():
            fields[name] = convert(fields[name])
        made = model.__new__(model)
        for set_slot, value in zip(_SETTERS, (fields, names, None, None), strict=True):
            set_slot(made, value)
        return made

    return build


def _made(model: type[M], fields: Sequence[dict[str, Any]]) -> list[M]:
    """A model of each dictionary, without validation: what pydantic's `model_construct` does, for many at once."""
    made = [*map(model.__new__, repeat(model, len(fields)))]
    slots: list[Iterable[Any]] = [fields, repeat({*model.model_fields}), repeat(None), repeat(None)]
    for set_slot, values in zip(_SETTERS, slots, strict=True):
        deque(map(set_slot, made, values), maxlen=0)
    return made


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
        return _model(annotation)
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
