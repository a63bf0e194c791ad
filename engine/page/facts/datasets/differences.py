"""How two versions differ, row by row, with the words of long texts that were changed."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Literal

from engine.page.facts.datasets.rows import LARGE, ROW, column_names, quoted, records_at
from engine.page.facts.version import VersionFacts
from engine.page.sessions import Reader
from engine.plain_values import json_line
from registry import Manifest
from registry.query.diff import Change, Diff, RowDiff, RowSample, compare

if TYPE_CHECKING:
    import pyarrow as pa

_WORDS = 2000
"""Words of a text that are compared one by one; longer texts are shown whole, old and new."""
_CONTEXT = 12
"""Unchanged words that are shown beside a change."""

_KEYS = 12
"""Fields that are tried as keys."""

ROWS = 50
"""Rows of a page."""

Kind = Literal["same", "old", "new", "skipped"]
Part = Literal["changed", "removed", "added"]


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
        part: the rows that are shown; `parts` has how many there are of each kind, if any.
        page: from 1.
        changed, sampled: the rows of the page: those that changed, or those that were added or removed.
    """

    diff: Diff
    part: Part = "changed"
    parts: Mapping[Part, int] = field(default_factory=dict)
    page: int = 1
    pages: int = 1
    changed: tuple[ChangedRow, ...] = ()
    sampled: tuple[RowSample, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Two versions to compare.

    Args:
        key: fields that identify a row; empty: the first field that identifies the rows of both, or if there is none, rows are
            compared by content.
    """

    old: Manifest
    new: Manifest
    key: tuple[str, ...]

    @property
    def identity(self) -> Hashable:
        """Identifies the comparison. The result for an identity never changes."""
        return self.old.version_id, self.new.version_id, self.key

    @property
    def is_large(self) -> bool:
        """Whether it takes too long for one request."""
        return self.old.content_id != self.new.content_id and max(self.old.rows, self.new.rows) >= LARGE


@dataclass(frozen=True)
class _Kept:
    """A comparison with the places of all rows."""

    diff: Diff

    @property
    def nbytes(self) -> int:
        places = self.diff.rows.places if self.diff.rows else None
        return sum(each.nbytes for each in (places.changed, places.added, places.removed)) if places else 0


def comparison(reader: Reader, version: VersionFacts, other: str, key: Sequence[str]) -> Comparison:
    """The comparison of a version with another one.

    Args:
        other: a number of the same name, or `NAME@V`; empty: the version before.
    """
    target = f"{version.manifest.name}@{other or version.before}" if not other or other.isdigit() else other
    return Comparison(reader.session.manifest(*reader.session.resolve(target)), version.manifest, tuple(key))


def is_compared(reader: Reader, wanted: Comparison) -> bool:
    """Whether the result is in memory."""
    return wanted.identity in reader.kept.comparisons


def compared(reader: Reader, wanted: Comparison) -> Diff:
    """The result of a comparison, with the places of all rows; it is kept."""
    old, new = wanted.old, wanted.new

    def made() -> _Kept:
        fields = wanted.key or _key(reader, old, new)
        return _Kept(compare(reader.session, str(old.ref), str(new.ref), key=fields, samples=0, places=True))

    kept: _Kept = reader.kept.comparisons.get(wanted.identity, made)
    return kept.diff


def differences(reader: Reader, wanted: Comparison, part: str, page: int) -> Differences:
    """How two versions differ, with a page of the rows.

    Args:
        part: changed, removed or added rows; if there are none, the first kind that has rows.
        page: from 1; a page past the end is the last one.
    """
    old, new, diff = wanted.old, wanted.new, compared(reader, wanted)
    if diff.rows is None or diff.rows.places is None:
        return Differences(diff)
    places = diff.rows.places
    lists: dict[Part, pa.Table] = {"changed": places.changed, "removed": places.removed, "added": places.added}
    parts = {name: len(rows) for name, rows in lists.items() if len(rows)}
    chosen: Part = next((name for name in parts if name == part), next(iter(parts), "changed"))
    pages = max(1, -(-len(lists[chosen]) // ROWS))
    page = min(max(1, page), pages)
    rows = lists[chosen].slice((page - 1) * ROWS, ROWS).to_pylist()
    found = Differences(diff, chosen, parts, page, pages)
    if chosen == "changed":
        return replace(found, changed=_changed_rows(reader, old, new, diff.rows, rows))
    records = records_at(reader, old if chosen == "removed" else new, [row["row"] for row in rows])
    return replace(found, sampled=tuple(RowSample(row["row"], row["copies"], records[row["row"]]) for row in rows))


def _changed_rows(
    reader: Reader, old: Manifest, new: Manifest, diff: RowDiff, rows: Sequence[dict[str, Any]]
) -> tuple[ChangedRow, ...]:
    before, after = (
        records_at(reader, side, [row[place] for row in rows]) for side, place in ((old, "old_row"), (new, "new_row"))
    )
    others = [name for name in diff.compared if name not in diff.key]
    found = []
    for row in rows:
        was, now = before[row["old_row"]], after[row["new_row"]]
        fields = {name: (was[name], now[name]) for name, flag in zip(others, row["flags"], strict=True) if flag}
        own = {name: now[name] for name in diff.key if name != ROW}
        found.append(_changed(Change(row["old_row"], row["new_row"], own, fields)))
    return tuple(found)


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
    """Two texts as one, with the words that were removed and added."""
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
    """Words, each with the space before it, so that a word that is added at the end changes no other."""
    return re.findall(r"\s*\S+|\s+$", text)


def _shortened(words: Sequence[str], *, first: bool, last: bool) -> list[Piece]:
    """Unchanged words, of which only those near a change are shown."""
    before, after = (0 if first else _CONTEXT), (0 if last else _CONTEXT)
    left = len(words) - before - after
    if left <= _CONTEXT:
        return [Piece("same", "".join(words))]
    start, stop = words[:before], words[len(words) - after :]
    skipped = Piece("skipped", f"{left:,} words")
    return [Piece("same", "".join(start)), skipped, Piece("same", "".join(stop))]
