"""Rows of the catalog's tables, made from the files of record: manifests, run journals, marks."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import duckdb
from pydantic_core import to_jsonable_python

from registry.catalog.manifest import Event, Manifest, Pin, StepRun, UsedNumber
from registry.errors import UnfitError

TABLES = ("versions", "inputs", "side_objects", "metrics", "refs", "runs", "step_runs", "pins", "numbers")

TableRows = dict[str, list[dict[str, Any]]]

_UNFIT = (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException, duckdb.InvalidTypeException)
"""DuckDB's errors about values, rather than about the file."""

_VERSION = {"name", "version", "kind", "type", "content_id", "run_id", "pipeline", "step", "op", "output", "step_key"}


def merged(parts: Iterable[TableRows]) -> TableRows:
    """Rows of several sources, in order."""
    rows: TableRows = defaultdict(list)
    for part in parts:
        for table, more in part.items():
            rows[table].extend(more)
    return rows


def manifest_rows(m: Manifest) -> TableRows:
    """The rows of a version."""
    here = {"name": m.name, "version": m.version}
    more = {"version_id": m.version_id, "fields": _json(m.fields), "rows": m.rows, "bytes": m.bytes}
    parents = [("data", ref) for ref in m.inputs] + [("model", ref) for ref in m.models]
    return {
        "versions": [
            m.model_dump(include=_VERSION)
            | more
            | {"created_at": _naive(m.created_at), "files": _json(m.files) if m.files else None, "variant": m.variant}
        ],
        "inputs": [
            {"child": m.name, "child_version": m.version, "position": position, "role": role}
            | {"parent": ref.name, "parent_version": ref.version, "opaque": role == "model" or position in m.opaque}
            for position, (role, ref) in enumerate(parents)
        ],
        "side_objects": [here | side.model_dump(exclude={"bytes"}) for side in m.side],
        "metrics": [here | metric.model_dump() | {"variant": m.variant} for metric in m.metrics],
    }


def run_rows(events: Iterable[Event], steps: int = 0) -> TableRows:
    """The rows of a run, from its events in order; from all of them, or from those after its first `steps` steps."""
    rows: TableRows = defaultdict(list)
    for event in events:
        if event.event == "started":
            run = {"run_id": event.run_id, "pipeline": event.pipeline, "state": "running", "started_at": _naive(event.at)}
            given = {"params": _json(event.source.get("params", {})), "file": event.source.get("file")}
            rows["runs"].append({**run, "ended_at": None, "error": None, **given})
        elif event.event == "step" and event.step:
            rows["step_runs"].append(_step_row(event.run_id, event.step, position=steps + len(rows["step_runs"])))
        elif event.event == "ended":
            for run in rows["runs"]:
                run |= {"state": event.state, "ended_at": _naive(event.at), "error": event.error}
            stamp = {"run_id": event.run_id, "updated_at": _naive(event.at)}
            rows["refs"] += [{"name": name, "version": version, **stamp} for name, version in event.refs.items()]
    return rows


def _step_row(run_id: str, step: StepRun, position: int) -> dict[str, Any]:
    times = {name: moment and _naive(moment) for name, moment in (("started_at", step.started_at), ("ended_at", step.ended_at))}
    # Engines that did not record when a step started did not record what it had waited for, either.
    waited_for = step.waited_for if step.started_at else None
    # Lists and objects as JSON: `insert` unnests lists.
    texts = {name: _json(value) for name, value in step.model_dump(include={"why", "notes", "by_model"}).items()}
    # Reasons of rejects, and their rows, are in the journal alone.
    values = step.model_dump(exclude={"reject_reasons", "reject_rows"})
    return {"run_id": run_id, **values, **times, "waited_for": waited_for, **texts, "position": position}


def mark_rows(pins: Iterable[Pin], numbers: Iterable[UsedNumber]) -> TableRows:
    """The rows of pins and used version numbers."""
    return {
        "pins": [pin.model_dump() | {"pinned_at": _naive(pin.pinned_at)} for pin in pins],
        "numbers": [number.model_dump() for number in numbers],
    }


def table_rows(manifests: Iterable[Manifest], runs: Iterable[Iterable[Event]], marks: TableRows) -> TableRows:
    """All rows of all tables, from all manifests, the events of all runs, and the marks."""
    rows = merged([*map(manifest_rows, manifests), *map(run_rows, runs), marks])
    return rows | {"refs": _latest(rows["refs"])}


def _latest(refs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last reference of each name, from the references that all runs set."""
    return list({ref["name"]: ref for ref in sorted(refs, key=lambda ref: ref["updated_at"])}.values())


def insert(con: duckdb.DuckDBPyConnection, rows: TableRows) -> None:
    """Insert rows into the tables of the connection's schema; raises UnfitError when they cannot store one."""
    for table in TABLES:
        if more := rows.get(table):
            # Columns are passed as lists: one statement per table, and no Arrow, whose conversion of lists imports pandas.
            names = list(more[0])
            columns = ", ".join(f"unnest(${place}) as {name}" for place, name in enumerate(names, 1))
            values = [[row[name] for row in more] for name in names]
            try:
                con.execute(f"insert into {table} by name select {columns}", values)
            except (*_UNFIT, OverflowError) as error:
                reason = str(error).partition("\n")[0]
                raise UnfitError(f"the catalog's table {table} cannot store this: {reason}") from error


def add_versions(con: duckdb.DuckDBPyConnection, manifests: Iterable[Manifest]) -> None:
    """Add the rows of versions that the tables do not have."""
    insert(con, merged(map(manifest_rows, manifests)))


def remove_versions(con: duckdb.DuckDBPyConnection, version_ids: Sequence[str]) -> None:
    """Remove the rows of versions, if they have any."""
    ids = list(version_ids)
    removed = "select name, version from versions where list_contains(?, version_id)"
    for table in ("side_objects", "metrics"):
        con.execute(f"delete from {table} where (name, version) in ({removed})", [ids])
    con.execute(f"delete from inputs where (child, child_version) in ({removed})", [ids])
    con.execute("delete from versions where list_contains(?, version_id)", [ids])


def add_events(con: duckdb.DuckDBPyConnection, events: Iterable[Event]) -> None:
    """Add the next events of runs. No run that ended later may have moved the same references."""
    for run_id, of_run in groupby(events, lambda event: event.run_id):
        each = list(of_run)
        known = 0
        if any(event.step for event in each):
            [(known,)] = con.execute("select count(*) from step_runs where run_id = ?", [run_id]).fetchall()
        rows = run_rows(each, known)
        for event in each:
            if event.event == "ended" and not rows["runs"]:
                ended = [event.state, _naive(event.at), event.error, run_id]
                con.execute("update runs set state = ?, ended_at = ?, error = ? where run_id = ?", ended)
        if names := [ref["name"] for ref in rows["refs"]]:
            con.execute("delete from refs where list_contains(?, name)", [names])
        insert(con, rows)


def remove_run(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Remove the rows of a run, but not the references that it moved."""
    for table in ("runs", "step_runs"):
        con.execute(f"delete from {table} where run_id = ?", [run_id])


def replace_marks(con: duckdb.DuckDBPyConnection, rows: TableRows) -> None:
    """Replace all rows of pins and numbers."""
    for table in ("pins", "numbers"):
        con.execute(f"delete from {table}")
    insert(con, rows)


def _json(value: Any) -> str:
    """A value as the files of record have it, with sorted keys: so the text is the same before and after it was in a file."""
    return json.dumps(to_jsonable_python(value, inf_nan_mode="null"), sort_keys=True, ensure_ascii=False)


def _naive(moment: dt.datetime) -> dt.datetime:
    """UTC without a zone: DuckDB's `timestamp`."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None)
