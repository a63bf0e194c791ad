"""The type of a dataset's rows, taken from the rows themselves when the pipeline file gives none.

It is taken from the first rows of each file, so that `engine check` stays fast. Rows beyond them are validated like those of
any dataset: what does not fit stops the run before anything is paid for.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import EngineError
from engine.sources.coercion import Number
from engine.sources.files.heads import head
from engine.sources.files.locations import SourceFile
from engine.sources.images import as_reference
from engine.sources.row import Row
from engine.spec.pipeline_spec import DatasetSpec
from registry.counted import counted
from registry.records.columns import RESERVED
from registry.records.described import Described, DescribedField, DescribedType, name_problem

ROWS, BYTES, FILES = 10_000, 4 << 20, 100
"""Limits of what is read: rows and bytes of each file, and the number of files."""

_MOST_FIELDS = 500
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_SCALARS: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (int, "int"),
    (float, "float"),
    (str, "str"),
    (bytes, "bytes"),
    (dt.datetime, "datetime"),
    (dt.date, "date"),
)


def inferred_type(name: str, spec: DatasetSpec, files: Sequence[SourceFile]) -> Described:
    """The type of a dataset's rows, named after the dataset.

    A field that some row lacks, or has as null, is optional. Whole numbers and fractions together are `float`, numbers and
    texts together `str`. Fields whose names cannot be stored, and objects without any key, are left out.

    Raises:
        EngineError: a file cannot be read, or its rows have no common type.
    """
    seen = _Struct()
    unread: list[Row] = []
    for file in files[:FILES]:
        in_text = file.format in ("csv", "tsv")
        for row in head([file], None, min(ROWS, spec.limit or ROWS), BYTES):
            if row.fields is None:  # where there are others, these are reported when the rows are read
                unread.append(row)
                continue
            fields = {spec.rename.get(key, key): value for key, value in row.fields.items()}
            fields |= {key: value for key, value in spec.defaults.items() if fields.get(key) is None}
            fields |= {key: as_reference(fields[key]) for key in spec.images if key in fields}
            seen.add({key: _value_of(value) if in_text else value for key, value in fields.items()}, row.where, "")
    fields_found = tuple(_fields(seen))
    if unread and not fields_found:
        more = f" (and {counted(unread[1:], 'more row')} that cannot be read)" if unread[1:] else ""
        raise EngineError(f"{unread[0].where}: {unread[0].error}{more}")
    if not fields_found:
        raise EngineError(f"dataset {name!r} has no rows to take its type from; give it a type")
    return Described(name=type_name(name), fields=fields_found)


def type_name(dataset: str) -> str:
    """The name of the type of a dataset's rows: `support_tickets` has `SupportTickets`."""
    return "".join(part[:1].upper() + part[1:] for part in re.split("[_-]+", dataset))


def changed_fields(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """How the fields of two versions (name -> type label) differ: `+ lang (str)`, `- old`, `score: int, now float`."""
    gone = [f"- {name}" for name in before if name not in now]
    new = [f"+ {name} ({label})" for name, label in now.items() if name not in before]
    other = [f"{name}: {before[name]}, now {label}" for name, label in now.items() if before.get(name, label) != label]
    return [*new, *gone, *other]


def _value_of(text: Any) -> Any:
    """What the text of a CSV cell stands for. Numbers with leading zeros are identifiers."""
    if not isinstance(text, str):
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return Number(text)
    return text.lower() == "true" if text.lower() in ("true", "false") else text


@dataclass
class _Struct:
    """The objects seen so far: how many there were, and their fields."""

    count: int = 0
    fields: dict[str, _Seen] = field(default_factory=dict)

    def add(self, value: Mapping[str, Any], where: str, path: str) -> None:
        self.count += 1
        for name, inner in value.items():
            if name not in self.fields and len(self.fields) >= _MOST_FIELDS:
                what = f"{path or 'the rows'} have more than {_MOST_FIELDS} different keys"
                raise EngineError(f"{where}: {what}; if they are data, give the dataset a type with dict[str, ...]")
            self.fields.setdefault(name, _Seen()).add(inner, where, f"{path}.{name}" if path else name)


@dataclass
class _Seen:
    """The values seen so far of a field or a list: their kinds, with the place of the first of each."""

    values: int = 0
    null: bool = False
    kinds: dict[str, str] = field(default_factory=dict)
    struct: _Struct = field(default_factory=_Struct)
    items: _Seen | None = None

    def add(self, value: Any, where: str, path: str) -> None:
        self.values += 1
        if value is None:
            self.null = True
            return
        kind = _kind_of(value, where, path)
        if kind not in self.kinds:
            self.kinds[kind] = where
            self._check(where, path)
        if kind == "struct":
            self.struct.add(value, where, path)
        elif kind == "list":
            self.items = self.items or _Seen()
            for item in value:
                self.items.add(item, where, f"{path}[]")

    def _check(self, where: str, path: str) -> None:
        together = {"int", "float", "str"}
        if len(self.kinds) > 1 and not self.kinds.keys() <= together:
            found = " and ".join(f"{_SHOWN.get(kind, kind)} in {place}" for kind, place in self.kinds.items())
            raise EngineError(
                f"{where}: {path!r} has values of different kinds: {found}. Give the dataset a type, and fix the rows or "
                "leave the field out of it"
            )

    def type(self, optional: bool) -> DescribedType | None:
        """The type of all values; None for objects without any key."""
        optional = optional or self.null
        if "struct" in self.kinds:
            fields = tuple(_fields(self.struct))
            return DescribedType(kind="struct", fields=fields, optional=optional) if fields else None
        if "list" in self.kinds:
            item = self.items.type(optional=False) if self.items else None
            if self.items and self.items.kinds and item is None:
                return None
            return DescribedType(kind="list", item=item or DescribedType(kind="str"), optional=optional)
        widest: list[str] = [each for each in ("str", "float") if each in self.kinds]
        widest += [*self.kinds, "str"]
        return DescribedType.model_validate({"kind": widest[0], "optional": optional})


_SHOWN = {"struct": "an object", "list": "a list"}


def _kind_of(value: Any, where: str, path: str) -> str:
    if isinstance(value, Mapping):
        return "struct"
    if isinstance(value, list | tuple):
        return "list"
    for scalar, kind in _SCALARS:
        if isinstance(value, scalar):
            fits = not isinstance(value, int) or -(2**63) <= value < 2**63
            return kind if fits else "str"
    raise EngineError(
        f"{where}: {path!r} is a {type(value).__name__}, which cannot be stored; give the dataset a type without it"
    )


def _fields(struct: _Struct) -> Iterable[DescribedField]:
    names: dict[str, str] = {}
    for name, seen in struct.fields.items():
        if name_problem(name) or name.lower() in RESERVED:
            continue
        if other := names.get(name.lower()):
            raise EngineError(f"SQL cannot distinguish the fields {other!r} and {name!r}; rename one of them with `rename`")
        if about := seen.type(optional=seen.values < struct.count):
            names[name.lower()] = name
            yield DescribedField(name=name, type=about)
