"""How the fields of two versions differ, and whether readers of one can read the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from registry.records.schema import fields_of, type_label


@dataclass(frozen=True)
class FieldDiff:
    """How the fields differ (name -> type, as the registry stores them).

    Args:
        relation: `compatible` when the only changes are new optional fields, of rows or of nested records: readers of the old
            version can read the new one, and old rows can be read as the new type. Defaults are unknown here: a new
            field with a default is `incompatible`.
        reasons: why it is `incompatible`.
        reordered: whether the shared fields have another order, which alone changes the content id.
    """

    relation: Literal["same", "compatible", "incompatible"]
    added: dict[str, str]
    removed: dict[str, str]
    changed: dict[str, tuple[str, str]]
    reasons: tuple[str, ...]
    reordered: bool


SAME = FieldDiff("same", {}, {}, {}, (), False)


def compare_fields(old: pa.Schema, new: pa.Schema) -> FieldDiff:
    """How the fields of `new` differ from those of `old`."""
    was, now = fields_of(old), fields_of(new)
    shared = [name for name in was if name in now]
    added = {name: label for name, label in now.items() if name not in was}
    changed = {name: (was[name], now[name]) for name in shared if was[name] != now[name]}
    reasons = tuple(_obstacles(old, new, ""))
    return FieldDiff(
        relation="incompatible" if reasons else "compatible" if added or changed else "same",
        added=added,
        removed={name: label for name, label in was.items() if name not in now},
        changed=changed,
        reasons=reasons,
        reordered=shared != [name for name in now if name in was],
    )


def _obstacles(old: pa.Schema | pa.StructType, new: pa.Schema | pa.StructType, path: str) -> Iterator[str]:
    was, now = {field.name: field for field in old}, {field.name: field for field in new}
    for name, field in was.items():
        if name in now:
            yield from _change(field, now[name], f"{path}{name}")
        else:
            yield f"field {f'{path}{name}'!r} ({type_label(field.type, field.nullable)}) was removed"
    for name, field in now.items():
        if name not in was and not field.nullable:
            yield f"field {f'{path}{name}'!r} ({type_label(field.type)}) is new and not optional, so older rows lack it"


def _change(was: pa.Field, now: pa.Field, path: str) -> Iterator[str]:
    if pa.types.is_struct(was.type) and pa.types.is_struct(now.type):
        yield from _obstacles(was.type, now.type, f"{path}.")
    elif pa.types.is_list(was.type) and pa.types.is_list(now.type):
        yield from _change(was.type.value_field, now.type.value_field, f"{path}[]")
    elif was.type != now.type:
        yield f"field {path!r} was {type_label(was.type, was.nullable)} and is {type_label(now.type, now.nullable)}"
        return
    if now.nullable and not was.nullable:
        yield f"field {path!r} may now be null, which readers of {type_label(was.type)} refuse"
    elif was.nullable and not now.nullable:
        yield f"field {path!r} is no longer optional, so older rows may lack it"
