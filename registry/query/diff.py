"""Compares two versions: their fields, and their rows by content or by key.

Rows are compared as in SQL: whole values, null equals null, NaN equals NaN, and 0.0 equals -0.0. DuckDB compares them as
Arrow tables in a separate database, where columns are named by numbers, so field names do not matter.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from registry.catalog.manifest import Manifest
from registry.catalog.sql_files import sql
from registry.counted import counted
from registry.errors import QueryError
from registry.lineage.targets import Version
from registry.query.session import Session
from registry.records.artifacts import Artifact
from registry.records.field_diff import SAME, FieldDiff, compare_fields

ROW = "row"
"""The row's number. As a key, it pairs rows by position."""


@dataclass(frozen=True)
class Side:
    """One of the two versions, and its step and run."""

    name: str
    version: int
    kind: str
    type: str
    rows: int
    content_id: str
    step: str
    op: str
    run_id: str
    created_at: dt.datetime

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class RowSample:
    """A row that one version has `copies` more times than the other; `row` is the last of those copies."""

    row: int
    copies: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """Two rows with the same key; `fields` has the old and the new value of each changed field."""

    old_row: int
    new_row: int
    key: dict[str, Any]
    fields: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Places:
    """The places of the rows that differ.

    Args:
        changed: `old_row`, `new_row`, and `flags`: for each compared field that is not in the key, whether it changed.
        added, removed: `row` and `copies`.
    """

    changed: pa.Table
    added: pa.Table
    removed: pa.Table


@dataclass(frozen=True)
class RowDiff:
    """How the rows differ.

    Args:
        key: the fields that identify a row; empty when rows were compared by content, counting copies.
        compared: the fields that were compared: those of the same name and type (optional or not).
        fields: for each field, the number of the `changed` rows in which it changed.
        moved: rows at another position; only known when nothing was added or removed.
        samples_added, samples_removed, samples_changed: the first ones, by row.
        suggested_key: a field that is a key of both versions, when rows were compared by content and differ.
        places: the places of all rows, if they were asked for.
    """

    key: tuple[str, ...]
    compared: tuple[str, ...]
    unchanged: int
    added: int
    removed: int
    changed: int
    fields: dict[str, int]
    moved: int | None
    samples_added: tuple[RowSample, ...]
    samples_removed: tuple[RowSample, ...]
    samples_changed: tuple[Change, ...]
    suggested_key: str | None = None
    places: Places | None = None


@dataclass(frozen=True)
class FileDiff:
    """How the files of two models differ, by name and SHA-256."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: int


@dataclass(frozen=True)
class Diff:
    """The difference between two versions.

    Args:
        identical: whether the content ids are equal; then no rows were read.
        rows: None when there is no field to compare rows by.
        files: only for versions that name files.
    """

    old: Side
    new: Side
    identical: bool
    fields: FieldDiff
    rows: RowDiff | None
    files: FileDiff | None


def compare(
    session: Session,
    old: str,
    new: str | None = None,
    *,
    key: Sequence[str] = (),
    samples: int = 5,
    places: bool = False,
) -> Diff:
    """Compare two versions, each given as `NAME` or `NAME@V`.

    Args:
        new: without it, `old` is compared with the version of its name before it.
        key: fields that together identify a row; ROW pairs rows by position. Without a key, rows are compared by content;
            two models (or calibrations) of one row each are compared as that row.
        samples: the number of added, removed and changed rows to return, each.
        places: whether to return the places of all of them.

    Raises QueryError when a version does not exist, or a key is missing, null or not unique.
    """
    before = session.resolve(old)
    before, after = (before, session.resolve(new)) if new else (_version_before(session, before), before)
    first, second = (session.manifest(*version) for version in (before, after))
    sides = _side(first), _side(second)
    key = tuple(dict.fromkeys(key))
    _check_fields(key, first, second)
    if first.content_id == second.content_id:
        return Diff(*sides, True, SAME, _all_equal(key, first), None)
    tables = session.table(str(first.ref)), session.table(str(second.ref))
    single = all(side.kind != "dataset" and side.rows == 1 for side in sides)
    rows = _compare_rows(sides, tables, key or ((ROW,) if single else ()), samples, places)
    fields = compare_fields(*(table.drop_columns([ROW]).schema for table in tables))
    return Diff(*sides, False, fields, rows, _compare_files(tables))


def _version_before(session: Session, version: Version) -> Version:
    query = "select max(version) from versions where name = ? and version < ?"
    [(before,)] = session.ask(query, [*version]).rows
    if before is None:
        raise QueryError(
            f"{version} is the first version of {version.name}, so there is none before it. Name a version to compare it with."
        )
    return Version(version.name, int(before))


def _side(manifest: Manifest) -> Side:
    return Side(**{name: getattr(manifest, name) for name in Side.__dataclass_fields__})


def _check_fields(key: Sequence[str], old: Manifest, new: Manifest) -> None:
    for name in key:
        for manifest in (old, new):
            if name != ROW and name not in manifest.fields:
                raise QueryError(f"key {name}: {manifest.ref} has no such field; it has {', '.join(manifest.fields)}")


def _all_equal(key: Sequence[str], version: Manifest) -> RowDiff:
    return RowDiff(tuple(key), tuple(version.fields), version.rows, 0, 0, 0, {}, 0, (), (), ())


@dataclass(frozen=True)
class _Work:
    """The rows to compare: the tables of both versions, attached to `con` as `old_rows` and `new_rows`.

    Args:
        columns: the fields that can be compared, and their names in `con`.
    """

    con: duckdb.DuckDBPyConnection
    sides: tuple[Side, Side]
    tables: tuple[pa.Table, pa.Table]
    columns: dict[str, str]
    samples: int
    with_places: bool
    is_keyed: bool

    def count(self, what: str, source: str) -> int:
        [(count,)] = self.con.execute(f"select {what} from {source}").fetchall()
        return int(count)

    def rows(self, view: str, table: pa.Table) -> tuple[RowSample, ...]:
        found = self.con.execute(f"select row, copies from {view} order by row limit ?", [self.samples]).fetchall()
        return tuple(RowSample(row, copies, _values(table, row)) for row, copies in found)

    def places(self) -> Places | None:
        """The places of all rows that differ, if they are wanted."""
        if not self.with_places:
            return None
        added, removed = (
            self.con.sql(f"select row, copies from {view} order by row").to_arrow_table() for view in ("added", "removed")
        )
        changed = "select old_row, new_row, flags from changed order by new_row"
        none = "select 0::bigint as old_row, 0::bigint as new_row, []::boolean[] as flags limit 0"
        return Places(self.con.sql(changed if self.is_keyed else none).to_arrow_table(), added, removed)


def _compare_rows(
    sides: tuple[Side, Side], tables: tuple[pa.Table, pa.Table], key: Sequence[str], samples: int, places: bool
) -> RowDiff | None:
    with TemporaryDirectory() as spill, duckdb.connect(config={"temp_directory": spill}) as con:
        work = _Work(con, sides, tables, _attach(con, *tables), samples, places, bool(key))
        if not work.columns:
            return None
        return _by_key(work, tuple(key)) if key else _by_content(work)


def _attach(con: duckdb.DuckDBPyConnection, old: pa.Table, new: pa.Table) -> dict[str, str]:
    shared = [name for name in old.schema.names if name in new.schema.names and name != ROW]
    columns = [f"c{place}" for place in range(len(shared))]
    types = []
    for view, table in (("old_rows", old), ("new_rows", new)):
        con.register(view, table.select([ROW, *shared]).rename_columns([ROW, *columns]))
        types.append([row[1] for row in con.execute(f"describe {view}").fetchall()][1:])
    return {name: column for name, column, was, now in zip(shared, columns, *types, strict=True) if was == now}


def _by_content(work: _Work) -> RowDiff:
    columns = work.columns.values()
    work.con.execute(Template(sql("diff_content.sql")).substitute(columns=", ".join(columns)))
    added, removed = (work.count("coalesce(sum(copies), 0)", view) for view in ("added", "removed"))
    elsewhere = " or ".join(f"o.{column} is distinct from n.{column}" for column in columns)
    same_rows = not added and not removed
    return RowDiff(
        key=(),
        compared=tuple(work.columns),
        unchanged=work.sides[0].rows - removed,
        added=added,
        removed=removed,
        changed=0,
        fields={},
        moved=work.count("count(*)", f"old_rows o join new_rows n using (row) where {elsewhere}") if same_rows else None,
        samples_added=work.rows("added", work.tables[1]),
        samples_removed=work.rows("removed", work.tables[0]),
        samples_changed=(),
        suggested_key="id" if added and removed and _is_key(work, "id") else None,
        places=work.places(),
    )


def _by_key(work: _Work, key: tuple[str, ...]) -> RowDiff:
    old, new = work.sides
    for name in key:
        if name not in work.columns and name != ROW:
            raise QueryError(f"key {name}: it has different types in {old} and {new}; use another field")
    columns = [work.columns.get(name, ROW) for name in key]
    for view, side in (("old_rows", old), ("new_rows", new)):
        _check_key(_key_faults(work, view, columns), side, ", ".join(key))
    others = {name: column for name, column in work.columns.items() if name not in key}
    same_key = " and ".join(f"o.{column} = n.{column}" for column in columns)
    flags = ", ".join(f"o.{column} is distinct from n.{column}" for column in others.values())
    work.con.execute(Template(sql("diff_keyed.sql")).substitute(same_key=same_key, flags=flags))
    added, removed, changed = (work.count("count(*)", view) for view in ("added", "removed", "changed"))
    times = dict(work.con.execute("from changed_columns").fetchall())
    return RowDiff(
        key=key,
        compared=tuple(work.columns),
        unchanged=old.rows - removed - changed,
        added=added,
        removed=removed,
        changed=changed,
        fields={name: times[place] for place, name in enumerate(others) if place in times},
        moved=None if added or removed else work.count("count(*)", "pairs where old_row <> new_row"),
        samples_added=work.rows("added", work.tables[1]),
        samples_removed=work.rows("removed", work.tables[0]),
        samples_changed=_changes(work, key, list(others)),
        places=work.places(),
    )


class _KeyFaults(NamedTuple):
    """See diff_key_check.sql."""

    nulls: int
    null_row: int | None
    repeated: int
    first: int | None
    last: int | None


def _key_faults(work: _Work, view: str, columns: Sequence[str]) -> _KeyFaults:
    any_null = " or ".join(f"{column} is null" for column in columns)
    query = Template(sql("diff_key_check.sql")).substitute(rows=view, columns=", ".join(columns), any_null=any_null)
    [faults] = work.con.execute(query).fetchall()
    return _KeyFaults(*faults)


def _check_key(faults: _KeyFaults, side: Side, label: str) -> None:
    advice = "Use fields that together identify a row, or no key to compare rows by content."
    if faults.nulls:
        raise QueryError(
            f"key {label}: null in {counted(faults.nulls, 'row')} of {side}, first in row {faults.null_row}. {advice}"
        )
    if faults.repeated:
        raise QueryError(
            f"key {label}: {counted(faults.repeated, 'value')} {'occurs' if faults.repeated == 1 else 'occur'} in more than "
            f"one row of {side}, "
            f"for example in rows {faults.first} and {faults.last}. {advice}"
        )


def _is_key(work: _Work, field: str) -> bool:
    if field not in work.columns:
        return False
    faults = [_key_faults(work, view, [work.columns[field]]) for view in ("old_rows", "new_rows")]
    return not any(found.nulls or found.repeated for found in faults)


def _changes(work: _Work, key: Sequence[str], others: Sequence[str]) -> tuple[Change, ...]:
    query = "select old_row, new_row, flags from changed order by new_row limit ?"
    changes = []
    for old_row, new_row, flags in work.con.execute(query, [work.samples]).fetchall():
        was, now = _values(work.tables[0], old_row), _values(work.tables[1], new_row)
        fields = {name: (was[name], now[name]) for name, flag in zip(others, flags, strict=True) if flag}
        changes.append(Change(old_row, new_row, {name: now[name] for name in key if name != ROW}, fields))
    return tuple(changes)


def _values(table: pa.Table, row: int) -> dict[str, Any]:
    [values] = table.slice(row, 1).to_pylist()
    del values[ROW]
    return dict(values)


def _compare_files(tables: tuple[pa.Table, pa.Table]) -> FileDiff | None:
    stored = Artifact.arrow_schema().field("files")
    if any("files" not in table.schema.names or table.schema.field("files").type != stored.type for table in tables):
        return None
    was, now = ({file["name"]: file["sha256"] for files in table["files"].to_pylist() for file in files} for table in tables)
    shared = was.keys() & now.keys()
    changed = sorted(name for name in shared if was[name] != now[name])
    return FileDiff(
        added=tuple(sorted(now.keys() - was.keys())),
        removed=tuple(sorted(was.keys() - now.keys())),
        changed=tuple(changed),
        unchanged=len(shared) - len(changed),
    )
