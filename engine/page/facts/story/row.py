"""The story of a row: the rows that it came from, its calls, and what was made from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engine.page.facts.datasets.rows import records_at
from engine.page.facts.excerpts import one_line
from engine.page.facts.story.calls import CallFacts, call_facts
from engine.page.sessions import Reader
from registry import Decision
from registry.errors import QueryError, RegistryError
from registry.lineage.lineage import Fact
from registry.lineage.targets import Version
from registry.lineage.walk import Direction, RowNumbers, Walk
from registry.query.impact import Affected, affected_by

ROWS = 4
"""Rows of one version that are shown; the others are counted."""
_VERSIONS = 40
"""The most versions of a row's way that are shown, nearest first."""
_SIBLINGS = 24
_CALLS = 20
"""The most calls of a row that are shown."""

_FILES = ("files", "config")
"""Fields of models and other artifacts."""

_REMOVED = Fact("removed", "", 0, "", "")
Change = Literal["new", "changed", "same"]


@dataclass(frozen=True)
class FieldFacts:
    """A field of a row, and whether the rows that it came from have it with another value (`before`), or not at all."""

    name: str
    value: Any
    change: Change
    before: Any = None


@dataclass(frozen=True)
class RowFacts:
    """A row of a stage; `text` shows its new fields on one line. `unreadable` says why it has no fields, if it has none.

    `decisions` are those of reviewers about its content.
    """

    row: int
    fields: tuple[FieldFacts, ...]
    text: str
    calls: tuple[CallFacts, ...] = ()
    more_calls: int = 0
    unreadable: str = ""
    decisions: tuple[Decision, ...] = ()

    def with_change(self, *changes: Change) -> list[FieldFacts]:
        """The fields with one of these changes."""
        return [each for each in self.fields if each.change in changes]


@dataclass(frozen=True)
class Stage:
    """Rows of a version in the story of a row.

    Args:
        parents: the versions that it was made from.
        others: the number of further rows of the version in the story.
        unknown: whether other rows may belong to the story as well, because that was not recorded.
    """

    version: Version
    kind: str
    type: str
    step: str
    run_id: str
    size: int
    parents: tuple[Version, ...]
    rows: tuple[RowFacts, ...]
    others: int
    unknown: bool


@dataclass(frozen=True)
class Hop:
    """Row `child` of a version came from row `parent` of another one."""

    child: tuple[Version, int]
    parent: tuple[Version, int]


@dataclass(frozen=True)
class Sibling:
    """Another row from the same rows; `text` shows the fields that differ, on one line."""

    row: int
    text: str


@dataclass(frozen=True)
class RowStory:
    """The story of a row.

    Args:
        before: the rows that it came from, in the order in which they were made, itself last.
        after: the rows that were made from it, nearest first.
        hops: the edges between the rows of the stages.
        left_out: the number of versions of the story that are not shown.
        siblings: other rows that came from the same rows; `more_siblings` are not listed.
        impact: everything that was made from it, itself first.
        notes: what could not be read, and why.
    """

    version: Version
    row: int
    before: tuple[Stage, ...]
    after: tuple[Stage, ...]
    hops: tuple[Hop, ...]
    left_out: int
    siblings: tuple[Sibling, ...]
    more_siblings: int
    impact: tuple[Affected, ...]
    notes: tuple[str, ...] = ()

    @property
    def itself(self) -> Stage:
        """The row's own stage."""
        return self.before[-1]

    @property
    def models(self) -> list[Affected]:
        """The models that were made from it."""
        return [each for each in self.impact if each.kind == "model" and each.version != self.version]


def row_story(reader: Reader, target: str, row: int) -> RowStory:
    """The story of a row. Raises QueryError when there is no such version or row."""
    lineage = reader.session.lineage
    version = lineage.find(target)
    if not 0 <= row < lineage.facts[version].rows:
        rows = lineage.facts[version].rows
        raise QueryError(
            f"{version} has no row {row}" + (f"; its rows are numbered 0 to {rows - 1}" if rows else "; it has no rows")
        )
    notes: list[str] = []
    up = _walked(reader, version, row, "up", notes)
    down = _walked(reader, version, row, "down", notes)
    siblings = _siblings(reader, version, row, notes)
    shown = [each for each in siblings if each != row][:_SIBLINGS]
    own = _records(reader, version, [row, *shown])
    records = {version: own}
    before, left_before = _stages(reader, up, records)
    after, left_after = _stages(reader, down, records, without=version)
    try:
        impact = tuple(affected_by(reader.session, down))
    except RegistryError as error:
        impact = ()
        notes.append(str(error))
    return RowStory(
        version=version,
        row=row,
        before=before,
        after=after,
        hops=tuple(_hops((*before, *after), (up, down))),
        left_out=left_before + left_after,
        siblings=tuple(Sibling(each, one_line(_differing(own.get(each, {}), own.get(row, {})))) for each in shown),
        more_siblings=len(siblings) - 1 - len(shown),
        impact=impact,
        notes=tuple(dict.fromkeys(notes)),
    )


def _walked(reader: Reader, version: Version, row: int, direction: Direction, notes: list[str]) -> Walk:
    """A walk, or only its start if edges cannot be read."""
    try:
        return reader.session.lineage.walk(version, [row], direction, through_models=direction == "down")
    except (RegistryError, OSError) as error:
        notes.append(str(error))
        start = Walk()
        start.reached.append(_start(version, row))
        return start


def _start(version: Version, row: int) -> Any:
    from registry.lineage.walk import Reached

    return Reached(0, version, np.array([row], np.int64))


def _siblings(reader: Reader, version: Version, row: int, notes: list[str]) -> list[int]:
    try:
        return [int(each) for each in reader.session.lineage.siblings(version, row)]
    except (RegistryError, OSError) as error:
        notes.append(str(error))
        return [row]


_Known = dict[Version, dict[int, dict[str, Any]]]
"""Rows that have been read: reading one takes reading its whole object."""


def _stages(reader: Reader, walk: Walk, records: _Known, without: Version | None = None) -> tuple[tuple[Stage, ...], int]:
    """The versions of a walk, except `without`, as stages in the order in which they were made, and how many are left out."""
    reached: defaultdict[Version, list[RowNumbers]] = defaultdict(list)
    depths: dict[Version, int] = {}
    unknown = set()
    for depth, version, rows in walk.reached:
        depths.setdefault(version, depth)
        if rows is None:
            unknown.add(version)
        else:
            reached[version].append(rows)
    graph = reader.session.lineage.graph
    made_from = {version: [link.parent for link in graph.links(version, "up") if link.parent in depths] for version in depths}
    order = _order(sorted(depths, key=lambda each: (depths[each], each)), made_from, vague=depths.keys() - reached.keys())
    nearest = set(sorted(depths, key=lambda each: (depths[each], each))[:_VERSIONS])
    parents = _parents(walk)
    stages = []
    for version in order:
        if version not in nearest or version == without:
            continue
        rows = np.unique(np.concatenate(reached[version])) if reached[version] else np.empty(0, np.int64)
        shown = [int(each) for each in rows[:ROWS]]
        stages.append(_stage(reader, version, shown, len(rows) - len(shown), version in unknown, records, parents))
    return tuple(stages), len(depths) - len(nearest)


def _order(versions: Sequence[Version], made_from: Mapping[Version, Sequence[Version]], vague: Set[Version]) -> list[Version]:
    """Each version after those that it was made from.

    Versions without a known row, such as those that a step only compared its rows with, come just before the versions made from
    them, so that a story begins with its seed.
    """
    found: dict[Version, None] = {}
    open_ones: list[tuple[Version, bool]] = [(version, False) for version in reversed(versions)]
    while open_ones:
        version, is_next = open_ones.pop()
        if is_next:
            found[version] = None
        elif version not in found:
            open_ones.append((version, True))
            parents = sorted(made_from[version], key=lambda each: (each in vague, each))
            open_ones += [(each, False) for each in reversed(parents) if each not in found]
    return list(found)


def _parents(walk: Walk) -> dict[Version, list[Any]]:
    found: defaultdict[Version, list[Any]] = defaultdict(list)
    for hop in walk.hops:
        found[hop.child].append(hop)
    return found


def _stage(
    reader: Reader,
    version: Version,
    shown: list[int],
    others: int,
    unknown: bool,
    records: _Known,
    parents: Mapping[Version, Sequence[Any]],
) -> Stage:
    lineage = reader.session.lineage
    fact = lineage.facts.get(version, _REMOVED)
    trouble = "" if version in lineage.facts else f"{version} has been removed, and its rows with it"
    known = records.setdefault(version, {})
    try:
        if missing := [row for row in shown if row not in known]:
            known |= records_at(reader, reader.session.manifest(*version), missing)
    except (RegistryError, OSError) as error:
        trouble = trouble or str(error)
    try:
        calls = lineage.call_records(version, np.array(shown, np.int64)) if shown else {}
    except (RegistryError, OSError) as error:
        calls, trouble = {}, trouble or str(error)
    made = []
    for row in shown:
        record = known.get(row, {})
        origins = [
            records[hop.parent][int(parent)]
            for hop in parents.get(version, ())
            for parent in hop.parent_rows[hop.child_rows == row][:ROWS]
            if int(parent) in records.get(hop.parent, {})
        ]
        own = _distinct(calls.get(row, ()))
        fields = tuple(_field(name, value, origins) for name, value in record.items())
        # The files of a model would fill the line without telling anything.
        fresh = {
            each.name: record[each.name]
            for each in fields
            if each.change != "same" and (fact.kind == "dataset" or each.name not in _FILES)
        }
        made.append(
            RowFacts(
                row,
                fields,
                one_line(fresh or record),
                tuple(map(call_facts, own[:_CALLS])),
                max(0, len(own) - _CALLS),
                trouble,
                tuple(reader.session.decisions_about(record)) if record else (),
            )
        )
    made_from = tuple(dict.fromkeys(link.parent for link in lineage.graph.links(version, "up")))
    return Stage(version, fact.kind, fact.type, fact.step, fact.run_id, fact.rows, made_from, tuple(made), others, unknown)


def _records(reader: Reader, version: Version, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    try:
        return records_at(reader, reader.session.manifest(*version), rows) if rows else {}
    except (RegistryError, OSError):
        return {}


def _differing(record: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields in which a row differs from another one; all of them if it does not."""
    return {name: value for name, value in record.items() if name not in own or own[name] != value} or record


def _distinct(calls: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({call["call_id"]: call for call in calls}.values())


def _field(name: str, value: Any, origins: Sequence[Mapping[str, Any]]) -> FieldFacts:
    earlier = [each[name] for each in origins if name in each]
    change: Change = "new" if not earlier else "same" if value in earlier else "changed"
    return FieldFacts(name, value, change, earlier[0] if change == "changed" else None)


def _hops(stages: Sequence[Stage], walks: Sequence[Walk]) -> list[Hop]:
    """The edges of walks between rows that are shown, and those of the row itself."""
    shown = {(stage.version, each.row) for stage in stages for each in stage.rows}
    found: dict[Hop, None] = {}
    for walk in walks:
        starts = {(each.version, int(row)) for each in walk.reached[:1] for row in each.rows}  # type: ignore[union-attr]
        for hop in walk.hops:
            for child, parent in zip(hop.child_rows.tolist(), hop.parent_rows.tolist(), strict=True):
                ends = (hop.child, child), (hop.parent, parent)
                if all(end in shown or end in starts for end in ends):
                    found[Hop(*ends)] = None
    return list(found)
