"""Typed rows: a `Record` is a frozen pydantic model that maps to one Arrow schema.

The mapping is closed on purpose. A field is one of: str, int, float, bool, bytes, datetime, date, Literal, Enum,
Optional, list, tuple[X, ...], dict[str, X], or another pydantic model made of those. Everything else is refused
when the class is first used, with the field's name, so that no type is discovered to be unstorable after a model
was paid for.
"""

from __future__ import annotations

import datetime as dt
import enum
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, ClassVar, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, model_validator

Convert = Callable[[Any], Any] | None

_RESERVED = ("row", "_row")
_SCALARS: dict[type, pa.DataType] = {
    str: pa.large_string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.large_binary(),
    dt.datetime: pa.timestamp("us", tz="UTC"),
    dt.date: pa.date32(),
}


class UnsupportedTypeError(TypeError):
    """A record's field has a type outside the closed set that can be stored."""


class Record(BaseModel):
    """Base class of every row that flows between operators. Instances are frozen; unknown fields are errors.

    A number given for a text field becomes text (`"answer": 72` in a JSON file); nothing else is converted to text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    registry_kind: ClassVar[str] = "dataset"
    """What a version of such rows is called in the registry: `dataset`, `model` or `calibration`."""

    @classmethod
    def type_name(cls) -> str:
        """The name users write in YAML: the class name."""
        return cls.__name__

    @classmethod
    def arrow_schema(cls) -> pa.Schema:
        """The Arrow schema of these rows; raises UnsupportedTypeError for a field that cannot be stored."""
        return pa.schema(list(_layout(cls).arrow))

    @classmethod
    def to_table(cls, rows: Iterable[Self]) -> pa.Table:
        """Rows as one Arrow table, in order."""
        layout = _layout(cls)
        dumped = [layout.encode(row.model_dump()) for row in rows]
        return pa.Table.from_pylist(dumped, schema=cls.arrow_schema())

    @classmethod
    def conform(cls, table: pa.Table) -> pa.Table:
        """The table with exactly this record's columns; a column that it lacks is filled with the field's default."""
        columns = []
        for field in cls.arrow_schema():
            if field.name in table.schema.names:
                columns.append(table.column(field.name))
                continue
            default = cls.model_fields[field.name].get_default(call_default_factory=True)
            encode = _layout(cls).encoders.get(field.name)
            value = encode(default) if encode else default
            columns.append(pa.array([value] * table.num_rows, field.type))
        return pa.Table.from_arrays(columns, schema=cls.arrow_schema())

    @model_validator(mode="after")
    def _ints_fit(self) -> Self:
        for name in _layout(type(self)).ints:
            value = getattr(self, name)
            if value is not None and not -(2**63) <= value < 2**63:
                raise ValueError(f"{name}: {value} does not fit into 64 bits")
        return self

    @classmethod
    def from_table(cls, table: pa.Table | pa.RecordBatch) -> Iterator[Self]:
        """Validated rows of a table that has at least this record's columns; others are ignored.

        Raises pydantic.ValidationError on the first row that does not fit.
        """
        layout = _layout(cls)
        present = [field.name for field in layout.arrow if field.name in table.schema.names]
        for row in table.select(present).to_pylist():
            yield cls.model_validate(layout.decode(row))


class StoredFile(Record):
    """A file kept in the object store, as an artifact's row names it."""

    name: str
    sha256: str
    bytes: int


class Artifact(Record):
    """A record that stands for files: a version of artifacts has one row and the files it names."""

    files: list[StoredFile] = []


class Model(Artifact):
    """A trained model: a LoRA adapter on `base_model`, or full weights.

    Args:
        base_model: what the training started from, as it stood in the pipeline.
        format: `adapter` (peft) or `full` (a Hugging Face model folder).
        files: the model's folder, file by file.
        config: the resolved training settings, as JSON.
    """

    registry_kind: ClassVar[str] = "model"

    base_model: str
    format: typing.Literal["adapter", "full"]
    config: str = "{}"


class _Layout(typing.NamedTuple):
    arrow: tuple[pa.Field, ...]
    encoders: dict[str, Callable[[Any], Any]]
    decoders: dict[str, Callable[[Any], Any]]
    ints: tuple[str, ...]

    def encode(self, row: dict[str, Any]) -> dict[str, Any]:
        for name, convert in self.encoders.items():
            row[name] = convert(row[name])
        return row

    def decode(self, row: dict[str, Any]) -> dict[str, Any]:
        for name, convert in self.decoders.items():
            if name in row:
                row[name] = convert(row[name])
        return row


@cache
def _layout(cls: type[BaseModel]) -> _Layout:
    fields, encoders, decoders = [], {}, {}
    for name, info in cls.model_fields.items():
        if name in _RESERVED:
            raise UnsupportedTypeError(f"{cls.__name__}.{name}: this name is reserved for the row's number; call it otherwise")
        arrow, nullable, encode, decode = _column(info.annotation, f"{cls.__name__}.{name}")
        fields.append(pa.field(name, arrow, nullable=nullable))
        if encode:
            encoders[name] = _skip_none(encode)
        if decode:
            decoders[name] = _skip_none(decode)
    ints = tuple(field.name for field in fields if field.type == pa.int64())
    return _Layout(tuple(fields), encoders, decoders, ints)


def _skip_none(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _column(annotation: Any, where: str) -> tuple[pa.DataType, bool, Convert, Convert]:
    """Arrow type, nullability, and the converters to and from what Arrow stores (None: nothing to convert)."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _column(args[0], where)
    if origin in (typing.Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        if len(rest) == 1 and len(rest) < len(args):
            arrow, _, encode, decode = _column(rest[0], where)
            return arrow, True, encode, decode
    elif origin is typing.Literal:
        kinds = {type(arg) for arg in args}
        if len(kinds) == 1 and (kind := kinds.pop()) in (str, int, bool):
            return _SCALARS[kind], False, None, None
    elif origin is list or (origin is tuple and len(args) == 2 and args[1] is Ellipsis):
        return _list_column(args[0], where)
    elif origin is dict and args[0] is str:
        return _dict_column(args[1], where)
    elif isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return _enum_column(annotation, where)
        if annotation in _SCALARS:
            return _SCALARS[annotation], False, None, None
        if issubclass(annotation, BaseModel):
            layout = _layout(annotation)
            encode = layout.encode if layout.encoders else None
            decode = layout.decode if layout.decoders else None
            return pa.struct(list(layout.arrow)), False, encode, decode
    raise UnsupportedTypeError(
        f"{where}: cannot store a value of type {annotation}. Use str, int, float, bool, bytes, datetime, date, "
        "Literal, Enum, Optional, list, dict[str, X] or a nested record."
    )


def _list_column(item: Any, where: str) -> tuple[pa.DataType, bool, Convert, Convert]:
    arrow, nullable, encode, decode = _column(item, f"{where}[]")
    many_in = (lambda values: [None if v is None else encode(v) for v in values]) if encode else None
    many_out = (lambda values: [None if v is None else decode(v) for v in values]) if decode else None
    return pa.list_(pa.field("item", arrow, nullable=nullable)), False, many_in, many_out


def _dict_column(value: Any, where: str) -> tuple[pa.DataType, bool, Convert, Convert]:
    # Hugging Face datasets refuse Arrow maps; a list of key/value structs says the same.
    arrow, nullable, encode, decode = _column(value, f"{where}{{}}")
    entry = pa.struct([pa.field("key", pa.large_string(), False), pa.field("value", arrow, nullable)])

    def pack(mapping: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"key": k, "value": v if v is None or not encode else encode(v)} for k, v in mapping.items()]

    def unpack(entries: list[dict[str, Any]]) -> dict[str, Any]:
        return {e["key"]: e["value"] if e["value"] is None or not decode else decode(e["value"]) for e in entries}

    return pa.list_(pa.field("item", entry, nullable=False)), False, pack, unpack


def _enum_column(annotation: type[enum.Enum], where: str) -> tuple[pa.DataType, bool, Convert, Convert]:
    kinds = {type(member.value) for member in annotation}
    if len(kinds) != 1 or (kind := kinds.pop()) not in (str, int):
        raise UnsupportedTypeError(f"{where}: the members of enum {annotation.__name__} must all be str or all int")
    return _SCALARS[kind], False, lambda member: member.value, None


_NAMES = {
    pa.large_string(): "str",
    pa.int64(): "int",
    pa.float64(): "float",
    pa.bool_(): "bool",
    pa.large_binary(): "bytes",
    pa.timestamp("us", tz="UTC"): "datetime",
    pa.date32(): "date",
}


def type_label(arrow: pa.DataType, nullable: bool = False) -> str:
    """An Arrow type in the words of a record's author: `list[{role: str, content: str}]`, `str?`."""
    if pa.types.is_list(arrow):
        label = f"list[{type_label(arrow.value_type, arrow.value_field.nullable)}]"
    elif pa.types.is_struct(arrow):
        label = "{" + ", ".join(f"{f.name}: {type_label(f.type, f.nullable)}" for f in arrow) + "}"
    else:
        label = _NAMES.get(arrow, str(arrow))
    return label + ("?" if nullable else "")


def fields_of(schema: pa.Schema) -> dict[str, str]:
    """Column names and type labels, in order: the form in which a manifest and a step key hold a schema."""
    return {field.name: type_label(field.type, field.nullable) for field in schema}


def missing_fields(needed: type[Record], given: dict[str, str]) -> list[str]:
    """Why rows with these fields (name -> type label) cannot be read as `needed`; empty when they can.

    Typing is structural: more fields than needed are fine, an optional or defaulted field may be absent.
    """
    problems = []
    for field in needed.arrow_schema():
        label = type_label(field.type, field.nullable)
        have = given.get(field.name)
        if have is None:
            if needed.model_fields[field.name].is_required():
                problems.append(f"field {field.name!r} ({label}) is missing")
        elif have not in (label, label.removesuffix("?")):
            problems.append(f"field {field.name!r} is {have} where {label} is needed")
    return problems
