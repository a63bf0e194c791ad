"""How the fields of a record are stored: the Arrow type of each annotation, the conversions, and the valid values.

The mapping is closed on purpose. A field is one of: str, int, float, bool, bytes, datetime, date, Literal, Enum,
Optional, list, tuple[X, ...], dict[str, X], or another pydantic model made of those. Everything else is refused
when the class is first used, with the name of the field, so that no type turns out to be unstorable after a model
has been paid for. Values are checked when a record is made: text that is not valid Unicode and numbers beyond 64 bits
are refused.

Arrow is imported when an Arrow type is first asked for: `engine check` compares labels, and does without.
"""

from __future__ import annotations

import datetime as dt
import enum
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, RootModel

from registry.errors import UnsupportedTypeError
from registry.storage.valid_text import valid

if TYPE_CHECKING:
    import pyarrow as pa

Convert = Callable[[Any], Any]

RESERVED = ("row", "_row")
"""Names of columns that datasets have in addition to their fields."""

DICT = {b"python": b"dict"}
"""Metadata of the entries of a list that stores a dict."""


@dataclass(frozen=True)
class Column:
    """How values of one annotation are stored.

    Attributes:
        kind: `struct` (a model), `list`, `dict`, or the label of a scalar.
        nullable: whether None is a value.
        encode: converts a valid value to what Arrow accepts; None when no conversion is needed.
        decode: converts what Arrow returns, for rows of any version of the type, to what pydantic accepts; None as for encode.
        normalize: returns the value in its stored form (a datetime in UTC), or raises ValueError when it cannot be stored.
        parts: the fields of a model; the items of a list, or the entries of a dict, as `[]`.
        optional: the fields of a model that older rows may lack.
    """

    kind: str
    nullable: bool = False
    encode: Convert | None = None
    decode: Convert | None = None
    normalize: Convert | None = None
    parts: Mapping[str, Column] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    @cached_property
    def label(self) -> str:
        """The type as it is written in a record: `list[{role: str, content: str}]`, `str?`."""
        if self.kind == "struct":
            bare = "{" + ", ".join(f"{name}: {part.label}" for name, part in self.parts.items()) + "}"
        else:
            bare = f"list[{self.parts['[]'].label}]" if self.parts else self.kind
        return f"{bare}?" if self.nullable else bare

    @cached_property
    def arrow(self) -> pa.DataType:
        """The Arrow type."""
        import pyarrow as pa

        if self.kind == "struct":
            return pa.struct([pa.field(name, part.arrow, part.nullable) for name, part in self.parts.items()])
        if self.parts:
            item = self.parts["[]"]
            # Hugging Face datasets refuse Arrow maps; a list of key/value structs is equivalent.
            return pa.list_(pa.field("item", item.arrow, item.nullable, metadata=DICT if self.kind == "dict" else None))
        return arrow_scalars()[self.kind]


@cache
def arrow_scalars() -> Mapping[str, pa.DataType]:
    """The Arrow types of scalars by their labels."""
    import pyarrow as pa

    return {
        "str": pa.large_string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "bytes": pa.large_binary(),
        "datetime": pa.timestamp("us", tz="UTC"),
        "date": pa.date32(),
    }


@cache
def columns_of(model: type[BaseModel]) -> Column:
    """A record type as one column of structs; raises UnsupportedTypeError for a field that cannot be stored."""
    for name in model.model_fields:
        if name.lower() in RESERVED:
            raise UnsupportedTypeError(
                f"{model.__name__}.{name}: this name is reserved for the row number; choose another name"
            )
    return _model(model, model.__name__, ())


def _column(annotation: Any, where: str, within: tuple[type, ...]) -> Column:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _column(args[0], where, within)
    if origin in (typing.Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        if len(rest) == 1 and len(rest) < len(args):
            return _optional(_column(rest[0], where, within))
    elif origin is typing.Literal:
        return _constants(args, where, (str, int, bool))
    elif origin is list or (origin is tuple and len(args) == 2 and args[1] is Ellipsis):
        return _list(_column(args[0], f"{where}[]", within), origin)
    elif origin is dict and args[0] is str:
        return _dict(_column(args[1], f"{where}{{}}", within))
    elif isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return _enum(annotation, where)
        if annotation in _SCALARS:
            return _SCALARS[annotation]
        if issubclass(annotation, BaseModel):
            return _model(annotation, where, within)
    raise UnsupportedTypeError(
        f"{where}: cannot store a value of type {annotation}. Use str, int, float, bool, bytes, datetime, date, "
        "Literal, Enum, Optional, list, dict[str, X] or a nested record."
    )


# -- scalars ----------------------------------------------------------------------------------------------------------


def _int64(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} does not fit into 64 bits")
    return value


def _utc(value: dt.datetime) -> dt.datetime:
    if value.utcoffset() is None:
        return value.replace(tzinfo=dt.UTC)  # without a zone, it is in UTC
    try:
        return value.astimezone(dt.UTC)
    except OverflowError:
        raise ValueError(f"{value} is outside the years 1 to 9999 in UTC") from None


_SCALARS: dict[type, Column] = {
    str: Column("str", normalize=valid),
    int: Column("int", normalize=_int64),
    float: Column("float"),
    bool: Column("bool"),
    bytes: Column("bytes"),
    dt.datetime: Column("datetime", normalize=_utc),
    dt.date: Column("date"),
}


def _constants(values: tuple[Any, ...], where: str, kinds: tuple[type, ...]) -> Column:
    """The column of a closed set of values, all of one kind."""
    found = {type(value) for value in values}
    if len(found) != 1 or (kind := found.pop()) not in kinds:
        names = " or ".join(f"all {kind.__name__}" for kind in kinds)
        raise UnsupportedTypeError(f"{where}: its possible values must be {names}; they are {', '.join(map(repr, values))}")
    column = _SCALARS[kind]
    try:
        for value in values:
            if column.normalize:
                column.normalize(value)
    except ValueError as error:
        raise UnsupportedTypeError(f"{where}: one of its possible values cannot be stored: {error}") from error
    return replace(column, normalize=None)


def _enum(annotation: type[enum.Enum], where: str) -> Column:
    column = _constants(tuple(member.value for member in annotation), f"{where}, enum {annotation.__name__}", (str, int))
    # A model may be configured to contain the value instead of the member.
    return replace(column, encode=lambda member: annotation(member).value)


# -- types made of other types ------------------------------------------------------------------------------------------


def _optional(inner: Column) -> Column:
    encode, normalize = (convert and _unless_none(convert) for convert in (inner.encode, inner.normalize))
    return replace(inner, nullable=True, encode=encode, normalize=normalize)


def _list(item: Column, kind: type) -> Column:
    def each(convert: Convert | None, build: type) -> Convert | None:
        return convert and (lambda values: build([convert(value) for value in values]))

    return Column(
        "list",
        encode=each(item.encode, list),
        decode=each(item.decode and _unless_none(item.decode), list),
        normalize=each(item.normalize, kind),
        parts={"[]": item},
    )


def _dict(value: Column) -> Column:
    encode, decode, normalize = value.encode or _same, _unless_none(value.decode or _same), value.normalize or _same
    return Column(
        "dict",
        encode=lambda mapping: [{"key": k, "value": encode(v)} for k, v in mapping.items()],
        decode=lambda entries: {entry["key"]: decode(entry["value"]) for entry in entries},
        normalize=lambda mapping: {valid(k): normalize(v) for k, v in mapping.items()},
        parts={"[]": Column("struct", parts={"key": _SCALARS[str], "value": value})},
    )


def _model(model: type[BaseModel], where: str, within: tuple[type, ...]) -> Column:
    if model in within:
        raise UnsupportedTypeError(f"{where}: {model.__name__} contains itself; rows have a fixed depth")
    if issubclass(model, RootModel) or model.model_config.get("extra") == "allow":
        raise UnsupportedTypeError(f"{where}: {model.__name__} has no fixed set of fields")
    if not model.model_fields:
        raise UnsupportedTypeError(f"{where}: {model.__name__} has no fields, so there is nothing to store")
    parts: dict[str, Column] = {}
    for name, info in model.model_fields.items():
        if same := next((other for other in parts if other.lower() == name.lower()), None):
            raise UnsupportedTypeError(f"{where}: SQL cannot distinguish the names {same!r} and {name!r}; rename one of them")
        parts[name] = _column(info.annotation, f"{where}.{name}", (*within, model))
    encoders = [(name, part.encode) for name, part in parts.items() if part.encode]
    decoders = [(name, _unless_none(part.decode)) for name, part in parts.items() if part.decode]
    # Most fields are text and most text is ASCII: that is checked without a call.
    texts = [name for name, part in parts.items() if part.kind == "str" and part.normalize]
    normalizers = [(name, part.normalize) for name, part in parts.items() if part.normalize and name not in texts]

    def encode(value: BaseModel) -> dict[str, Any]:
        fields = value.__dict__.copy()
        for name, convert in encoders:
            fields[name] = convert(fields[name])
        return fields

    def decode(row: dict[str, Any]) -> dict[str, Any]:
        if row.keys() != parts.keys():
            row = {name: value for name, value in row.items() if name in parts}
        for name, convert in decoders:
            if name in row:
                row[name] = convert(row[name])
        return row

    def normalize(value: BaseModel) -> BaseModel:
        fields = value.__dict__
        try:
            for name in texts:
                text = fields[name]
                if text is not None and not text.isascii():
                    valid(text)
            for name, convert in normalizers:
                fields[name] = convert(fields[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        return value

    return Column(
        "struct",
        encode=encode,
        decode=decode,
        normalize=normalize if texts or normalizers else None,
        parts=parts,
        optional=frozenset(name for name, info in model.model_fields.items() if not info.is_required()),
    )


def _same(value: Any) -> Any:
    return value


def _unless_none(convert: Convert) -> Convert:
    """Passes None through. When decoding, even where a value is required: pydantic refuses it."""
    return lambda value: None if value is None else convert(value)
