"""Record types as data: those that a pipeline file or an operator describes, and that no class in a package defines.

A description says what is stored, and no more: it has no validators, and no defaults besides null. Equal descriptions give the
same class, so such types can be compared, sent to other processes and built again there.
"""

from __future__ import annotations

import datetime as dt
import enum
import types
import typing
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from registry.errors import UnsupportedTypeError
from registry.records.columns import RESERVED, columns_of
from registry.records.record import Record

Scalar = Literal["str", "int", "float", "bool", "bytes", "datetime", "date"]

SCALARS: Mapping[str, type] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "bytes": bytes,
    "datetime": dt.datetime,
    "date": dt.date,
}


class DescribedType(BaseModel):
    """The type of a value.

    Attributes:
        kind: a scalar, `words` (one of a closed set of texts or whole numbers), `list`, `dict` (from texts) or `struct`.
        optional: whether null is a value.
        words: the possible values of `words`.
        item: the type of a list's items or a dict's values.
        fields: the fields of a struct.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Scalar | Literal["words", "list", "dict", "struct"]
    optional: bool = False
    words: tuple[str | int, ...] = ()
    item: DescribedType | None = None
    fields: tuple[DescribedField, ...] = ()

    def or_null(self) -> DescribedType:
        """The same type with null as a further value."""
        return self.model_copy(update={"optional": True})

    def __str__(self) -> str:
        """As it is written in a pipeline file; a struct as `{name: type, ...}`."""
        if self.kind == "words":
            text = " | ".join(map(str, self.words))
        elif self.kind in ("list", "dict"):
            text = f"list[{self.item}]" if self.kind == "list" else f"dict[str, {self.item}]"
        elif self.kind == "struct":
            text = "{" + ", ".join(f"{field.name}: {field.type}" for field in self.fields) + "}"
        else:
            text = self.kind
        return f"({text})?" if self.optional and self.kind == "words" else f"{text}?" if self.optional else text


class DescribedField(BaseModel):
    """A field: its name, its type, and what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: DescribedType
    description: str = ""


class Described(BaseModel):
    """A record type.

    Attributes:
        name: shown in plans, and stored with versions.
        fields: the fields, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fields: tuple[DescribedField, ...]

    def field(self, name: str) -> DescribedField | None:
        """The field of that name; None if there is none."""
        return next((field for field in self.fields if field.name == name), None)

    def record(self) -> type[Record]:
        """The class; the same one for equal descriptions. Raises UnsupportedTypeError if rows of it cannot be stored."""
        return _record_of(self)


_DESCRIBED: dict[type[Record], Described] = {}


def description_of(record: type[Record]) -> Described | None:
    """The description that a record type was made from; None for one that a package defines."""
    return _DESCRIBED.get(record)


def described(record: type[Record]) -> Described:
    """A description of any record type: of its fields, without its validators."""
    return _DESCRIBED.get(record) or Described(name=record.type_name(), fields=_fields_of(record))


def extended(record: type[Record], fields: Iterable[DescribedField], name: str | None = None) -> type[Record]:
    """The type of rows that keep their fields and get further ones; a field of the same name is replaced where it stands.

    Args:
        name: the name of the new type; by default the names of the type and its new fields.
    """
    before, new = described(record), {field.name: field for field in fields}
    kept = tuple(new.pop(field.name, field) for field in before.fields)
    made = (*kept, *new.values())
    if made == before.fields:
        return record
    return Described(name=name or _joined(before.name, [*new]), fields=made).record()


def narrowed(record: type[Record], keep: Iterable[str], name: str | None = None) -> type[Record]:
    """The type of rows with some of their fields, in the order that is given."""
    before = described(record)
    found = [field for each in keep if (field := before.field(each))]
    if tuple(found) == before.fields:
        return record
    return Described(name=name or "Row", fields=tuple(found)).record()


_LONGEST_NAME = 60


def _joined(name: str, added: list[str]) -> str:
    joined = "+".join([name, *added])
    return joined if len(joined) <= _LONGEST_NAME else "Row"


# -- from classes -------------------------------------------------------------------------------------------------------


def _fields_of(model: type[BaseModel]) -> tuple[DescribedField, ...]:
    return tuple(
        DescribedField(
            name=name, type=_type_of(info.annotation, f"{model.__name__}.{name}"), description=info.description or ""
        )
        for name, info in model.model_fields.items()
    )


def _type_of(annotation: Any, where: str) -> DescribedType:
    """The type behind one of the annotations that columns.py stores."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_of(args[0], where)
    if origin in (typing.Union, types.UnionType):
        [inner] = [arg for arg in args if arg is not type(None)]
        return _type_of(inner, where).or_null()
    if origin is typing.Literal:
        return _words(args)
    if origin in (list, tuple):
        return DescribedType(kind="list", item=_type_of(args[0], where))
    if origin is dict:
        return DescribedType(kind="dict", item=_type_of(args[1], where))
    for kind, scalar in SCALARS.items():
        if annotation is scalar:
            return DescribedType(kind=kind)  # type: ignore[arg-type]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _words([member.value for member in annotation])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return DescribedType(kind="struct", fields=_fields_of(annotation))
    raise UnsupportedTypeError(f"{where}: cannot describe a value of type {annotation}")


def _words(values: Iterable[Any]) -> DescribedType:
    found = tuple(values)
    if any(isinstance(value, bool) for value in found):
        return DescribedType(kind="bool")
    return DescribedType(kind="words", words=found)


# -- to classes ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _record_of(about: Described) -> type[Record]:
    made = _model(about.name, about.fields, about.name)
    columns_of(made)
    _DESCRIBED[made] = about
    return made


def _model(name: str, fields: Iterable[DescribedField], where: str) -> type[Record]:
    definitions: dict[str, Any] = {}
    for field in fields:
        if field.name in definitions:
            raise UnsupportedTypeError(f"{where}.{field.name}: there are two fields of this name")
        if problem := name_problem(field.name):
            raise UnsupportedTypeError(f"{where}.{field.name}: {problem}")
        about = Field(... if not field.type.optional else None, description=field.description or None)
        definitions[field.name] = (_annotation(field.type, f"{where}.{field.name}"), about)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message='Field name ".*" in ".*" shadows an attribute', category=UserWarning)
        return create_model(name, __base__=Record, __module__=__name__, **definitions)


def _annotation(about: DescribedType, where: str) -> Any:
    made: Any
    if about.kind == "words":
        made = Literal[about.words]
    elif about.kind in ("list", "dict"):
        assert about.item is not None
        inner = _annotation(about.item, where)
        made = list[inner] if about.kind == "list" else dict[str, inner]  # type: ignore[valid-type]
    elif about.kind == "struct":
        made = _model(where.rpartition(".")[2], about.fields, where)
    else:
        made = SCALARS[about.kind]
    return made | None if about.optional else made


_FREE = {"construct", "copy", "dict", "json", "schema", "validate"}
"""Old methods of pydantic that nothing here calls, and likely names of fields."""

_TAKEN = frozenset(name for name in dir(Record) if not name.startswith("_")) - _FREE


def name_problem(name: str) -> str | None:
    """Why a field of a described type cannot have this name; None if it can."""
    if not name or name.startswith("_"):
        return "the name of a field starts with a letter"
    if not name.isprintable() or '"' in name:
        return "the name of a field has no quotes or control characters"
    if name in _TAKEN:
        return f"the name {name!r} is reserved; choose another one"
    return None


def field_name_problem(name: str, others: Iterable[str] = ()) -> str | None:
    """Why a field cannot have this name beside others; None if it can."""
    if same := next((other for other in others if other.lower() == name.lower() and other != name), None):
        return f"SQL cannot distinguish it from {same!r}; rename one of them"
    if name.lower() in RESERVED:
        return "this name is reserved for the row number; choose another one"
    return name_problem(name)
