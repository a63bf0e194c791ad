"""Schemas as text: the fields of a version, and whether its rows can be read as a record type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

from registry.errors import IncompatibleError
from registry.records.columns import Column, arrow_scalars, columns_of
from registry.records.described import Described, DescribedField, DescribedType
from registry.records.record import Record

if TYPE_CHECKING:
    import pyarrow as pa


def type_label(arrow: pa.DataType, nullable: bool = False) -> str:
    """An Arrow type as it is written in a record: `list[{role: str, content: str}]`, `str?`."""
    import pyarrow as pa

    if pa.types.is_list(arrow):
        label = f"list[{type_label(arrow.value_type, arrow.value_field.nullable)}]"
    elif pa.types.is_struct(arrow):
        label = "{" + ", ".join(f"{f.name}: {type_label(f.type, f.nullable)}" for f in arrow) + "}"
    else:
        label = _names().get(arrow, str(arrow))
    return label + ("?" if nullable else "")


@cache
def _names() -> Mapping[pa.DataType, str]:
    return {arrow: label for label, arrow in arrow_scalars().items()}


def fields_of(schema: pa.Schema) -> dict[str, str]:
    """Column names and type labels, in order: a schema as manifests and step keys store it."""
    return {field.name: type_label(field.type, field.nullable) for field in schema}


def fields_of_type(record: type[Record]) -> dict[str, str]:
    """The same of a record type's schema, without Arrow; raises UnsupportedTypeError for a field that cannot be stored."""
    return {name: column.label for name, column in columns_of(record).parts.items()}


def missing_fields(needed: type[Record], given: Mapping[str, str]) -> list[str]:
    """Why rows with these fields (name -> type label) cannot be read as `needed`; empty when they can.

    Typing is structural: more fields than needed are fine, an optional or defaulted field may be absent.
    """
    return list(_lacking(columns_of(needed), given, ""))


def described_fields(name: str, fields: Mapping[str, str]) -> Described:
    """A record type with these fields (name -> type label), as far as labels tell: a dict is a list of its entries."""
    return Described(name=name, fields=_described_members(fields))


def _described_members(members: Mapping[str, str]) -> tuple[DescribedField, ...]:
    return tuple(DescribedField(name=name, type=_described(label)) for name, label in members.items())


def _described(label: str) -> DescribedType:
    bare = label.removesuffix("?")
    optional = bare != label
    if bare.startswith("list["):
        return DescribedType(kind="list", optional=optional, item=_described(bare.removeprefix("list[")[:-1]))
    if bare.startswith("{"):
        return DescribedType(kind="struct", optional=optional, fields=_described_members(_members(bare)))
    return DescribedType.model_validate({"kind": bare, "optional": optional})


def ensure_readable(needed: type[Record], given: Mapping[str, str], what: str) -> None:
    """Raise IncompatibleError, with all reasons, unless rows with these fields can be read as `needed`.

    Args:
        what: the rows, for the message: `demo/rows@1 (SFTExample)`.
    """
    if problems := missing_fields(needed, given):
        raise IncompatibleError(f"{what} cannot be read as {needed.type_name()}: {'; '.join(problems)}")


def _lacking(needed: Column, given: Mapping[str, str], path: str) -> Iterator[str]:
    for name, column in needed.parts.items():
        if name in given:
            yield from _mismatches(column, given[name], f"{path}{name}")
        elif name not in needed.optional:
            yield f"field {f'{path}{name}'!r} ({column.label}) is missing"


def _mismatches(needed: Column, given: str, path: str) -> Iterator[str]:
    bare = given.removesuffix("?")
    if bare == given or needed.nullable:
        if needed.kind == "struct" and bare.startswith("{"):
            yield from _lacking(needed, _members(bare), f"{path}.")
            return
        if needed.kind in ("list", "dict") and bare.startswith("list["):
            yield from _mismatches(needed.parts["[]"], bare.removeprefix("list[")[:-1], f"{path}[]")
            return
        if bare == needed.label.removesuffix("?"):
            return
    yield f"field {path!r} is {given}, but must be {needed.label}"


def _members(label: str) -> dict[str, str]:
    """`{role: str, tags: list[{...}]}` split into its members, one level deep."""
    members, depth, start = {}, 0, 1
    for place, letter in enumerate(label):
        depth += (letter in "{[") - (letter in "}]")
        if (letter == "," and depth == 1) or (depth == 0 and place > start):
            name, _, inner = label[start:place].partition(": ")
            members[name] = inner
            start = place + 2
    return members
