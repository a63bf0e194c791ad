"""How two versions differ, row by row, with the words of long texts that were changed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from engine.page.facts.rows import column_names, quoted
from engine.page.facts.version import VersionFacts
from engine.page.sessions import Reader
from engine.plain_values import json_line
from registry import Manifest
from registry.query.diff import Change, Diff, RowSample, compare

_WORDS = 2000
"""Words of a text that are compared one by one; longer texts are shown whole, old and new."""
_CONTEXT = 12
"""Unchanged words that are shown beside a change."""

_KEYS = 12
"""Fields that are tried as keys."""

Kind = Literal["same", "old", "new", "skipped"]


@dataclass(frozen=True)
class Piece:
    """A part of a text: in both versions, in one of them, or in both and left out here."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class ChangedField:
    """A field of a changed row."""

    name: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class ChangedRow:
    """A row with the same key in both versions, and its fields that differ."""

    old_row: int
    new_row: int
    key: dict[str, Any]
    fields: tuple[ChangedField, ...]


@dataclass(frozen=True)
class Differences:
    """How two versions differ.

    Args:
        diff: the counts, and the fields that were added and removed.
        changed, added, removed: the first rows of each kind.
    """

    diff: Diff
    changed: tuple[ChangedRow, ...]
    added: tuple[RowSample, ...]
    removed: tuple[RowSample, ...]


def differences(reader: Reader, version: VersionFacts, other: str, key: Sequence[str], most: int) -> Differences:
    """How a version differs from another one.

    Args:
        other: a number of the same name, or `NAME@V`; empty: the version before.
        key: fields that identify a row; empty: the first field that identifies the rows of both, or if there is none, rows are
            compared by content.
        most: rows of each kind.
    """
    name = version.manifest.name
    old = f"{name}@{other or version.before}" if not other or other.isdigit() else other
    key = key or _key(reader, reader.session.manifest(*reader.session.resolve(old)), version.manifest)
    found = compare(reader.session, old, version.target, key=key, samples=most)
    rows = found.rows
    return Differences(
        found,
        tuple(map(_changed, rows.samples_changed)) if rows else (),
        rows.samples_added if rows else (),
        rows.samples_removed if rows else (),
    )


def _key(reader: Reader, old: Manifest, new: Manifest) -> list[str]:
    """The first field that is a key of both versions and has a value that is in both; `id` before all others."""
    shared = [name for name in column_names(reader, new) if name in old.fields and _may_identify(old, new, name)]
    shared.sort(key=lambda name: name != "id")
    if old.content_id == new.content_id or not shared or not (old.rows and new.rows):
        return []
    shared = shared[:_KEYS]
    counted = ", ".join(f"count(distinct {quoted(name)})" for name in shared)
    sides = [reader.session.ask(f"select {counted} from {quoted(str(each.ref))}").rows[0] for each in (old, new)]
    for name, was, now in zip(shared, *sides, strict=True):
        if was == old.rows and now == new.rows:
            column, first, second = quoted(name), quoted(str(old.ref)), quoted(str(new.ref))
            if reader.session.ask(f"select 1 from {first} join {second} using ({column}) limit 1").rows:
                return [name]
    return []


def _may_identify(old: Manifest, new: Manifest, name: str) -> bool:
    return new.fields.get(name) == old.fields[name] and old.fields[name].rstrip("?") in ("str", "int")


def _changed(change: Change) -> ChangedRow:
    fields = (ChangedField(name, pieces(_text(old), _text(new))) for name, (old, new) in change.fields.items())
    return ChangedRow(change.old_row, change.new_row, change.key, tuple(fields))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "null" if value is None else json_line(value)


def pieces(old: str, new: str) -> tuple[Piece, ...]:
    """Two texts as one, with what was taken out and put in."""
    was, now = _words(old), _words(new)
    if max(len(was), len(now)) > _WORDS:
        return Piece("old", old), Piece("new", new)
    found: list[Piece] = []
    for what, a, b, c, d in SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        if what == "equal":
            found += _shortened(was[a:b], first=a == 0, last=b == len(was))
            continue
        found += [Piece("old", "".join(was[a:b]))] if b > a else []
        found += [Piece("new", "".join(now[c:d]))] if d > c else []
    return tuple(found)


def _words(text: str) -> list[str]:
    """Words, each with the space before it, so that one that is added at the end changes no other."""
    return re.findall(r"\s*\S+|\s+$", text)


def _shortened(words: Sequence[str], *, first: bool, last: bool) -> list[Piece]:
    """Words that did not change: only those near a change are shown."""
    before, after = (0 if first else _CONTEXT), (0 if last else _CONTEXT)
    left = len(words) - before - after
    if left <= _CONTEXT:
        return [Piece("same", "".join(words))]
    start, stop = words[:before], words[len(words) - after :]
    skipped = Piece("skipped", f"{left:,} words")
    return [Piece("same", "".join(start)), skipped, Piece("same", "".join(stop))]
