"""Formats: the forms that rows of a record type take in files, besides the type's own fields.

A record type names the module that knows its formats, which is imported when a dataset of the type is read or exported:

    @formats("my_operators.formats")
    class Ticket(Record):
        text: str

The module has the constant `FORMATS`, a tuple of `RowFormat`s; those whose `record` is the type count. How a format is
recognised in a file: `engine.sources.recognition`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from engine.operator.types import DeclarationError
from registry import Record

if TYPE_CHECKING:
    import pyarrow as pa

R = TypeVar("R", bound=type[Record])

LeftOut = Callable[[str], None]
"""Called with the path of each part of a row that a format does not take, such as `messages[].audio`; never for nulls."""

OWN = "own"
"""The name of the format that every record type has: its own fields."""

_MODULE = "__formats__"


class Place(NamedTuple):
    """Where a row that is written stands.

    Attributes:
        dataset: the name of its dataset in the registry.
        row: the number of the row there.
    """

    dataset: str
    row: int


@dataclass(frozen=True)
class RowFormat:
    """A form that rows of a record type take in files.

    Args:
        name: the name of the format for `format:` and `engine export --to`.
        record: the record type.
        looks: the fields of a row and what they contain, for users.
        fields: the fields that `fits` and `read` look at; columns that nobody names are not read from Parquet files.
        fits: whether a row has this form; it looks at fields and their kinds, not at every value.
        read: the fields of the record, from a row that `fits`. It reports what it leaves out, at every depth, and raises
            Reject, with the place in the row, if the row has the form but cannot be used. None if it is only written.
        write: the row of a record; raises Reject if it cannot be expressed. None if it is only read.
        schema: the Arrow schema of written rows, which are then a Parquet file; None for JSON Lines.
        over_own: its rows have the type's own fields, too, and are read in this form if all of them fit.
    """

    name: str
    record: type[Record]
    looks: str
    fields: frozenset[str] = frozenset()
    fits: Callable[[Mapping[str, Any]], bool] | None = None
    read: Callable[[Mapping[str, Any], LeftOut], dict[str, Any]] | None = None
    write: Callable[[Any, Place], dict[str, Any]] | None = None
    schema: Callable[[], pa.Schema] | None = None
    over_own: bool = False


def formats(module: str) -> Callable[[R], R]:
    """Name the module that has the formats of the decorated record type, in its constant `FORMATS`.

    The name is a text, so that the formats can import the type. Editing the formats does not make steps run again that use the
    type.
    """

    def declare(record: R) -> R:
        setattr(record, _MODULE, module)
        return record

    return declare


@cache
def formats_of(record: type[Record]) -> Mapping[str, RowFormat]:
    """The formats of a record type by name, in the order of their module; types derived from it have none of them.

    Raises:
        DeclarationError: the module cannot be imported, has no formats, or two of one name.
    """
    name = vars(record).get(_MODULE)
    if name is None:
        return {}
    try:
        declared = getattr(importlib.import_module(name), "FORMATS", None)
    except Exception as error:  # whatever a module does while it is imported
        what = f"{type(error).__name__}: {error}"
        raise DeclarationError(f"{name}, which has the formats of {record.type_name()}, cannot be imported: {what}") from error
    if not isinstance(declared, tuple) or not all(isinstance(each, RowFormat) for each in declared):
        raise DeclarationError(f"{name}: FORMATS must be a tuple of RowFormat; {record.type_name()} names this module")
    own = [each for each in declared if each.record is record]
    found = {each.name: each for each in own}
    if len(found) < len(own) or OWN in found:
        raise DeclarationError(f"{name}: two formats of {record.type_name()} have the same name, or one is called {OWN!r}")
    return found


def readable(record: type[Record]) -> Mapping[str, RowFormat]:
    """The formats of a record type that can be read."""
    return {name: each for name, each in formats_of(record).items() if each.read and each.fits}


def writable(record: type[Record]) -> Mapping[str, RowFormat]:
    """The formats of a record type that can be written."""
    return {name: each for name, each in formats_of(record).items() if each.write}
