"""The catalog: which versions and runs there are, in DuckDB, made from manifests and run journals.

DuckDB lets in one writing process or many readers, so a connection to the file is opened under an OS lock, for a
moment. Readers copy the (small) tables into memory and let go: no query can hold up a commit.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from filelock import FileLock, Timeout

from registry.manifest import Draft, Event, Manifest, StepRun
from registry.store import ObjectStore, fsync_folder, read_checked_json, write_checked_json

LOCK_SECONDS = 60.0
TABLES = ("versions", "inputs", "side_objects", "metrics", "refs", "runs", "step_runs")

Rows = dict[str, list[dict[str, Any]]]


class LockedError(RuntimeError):
    """Another process held the registry's lock for too long."""


class Catalog:
    """The DuckDB file of a registry and the truth it is made from."""

    def __init__(self, root: Path, store: ObjectStore) -> None:
        self.root = root
        self._store = store
        self.file = root / "registry.duckdb"
        self._manifests = root / "manifests"
        self._runs = root / "runs"
        self._lock = FileLock(root / "registry.lock")
        self._alive: dict[str, FileLock] = {}

    # -- reading ------------------------------------------------------------------------------------------------

    def snapshot(self) -> duckdb.DuckDBPyConnection:
        """An in-memory database with a copy of the tables in schema `internal`; nothing on disk stays open."""
        memory = duckdb.connect(":memory:")
        memory.execute("create schema internal")
        with self._locked():
            self._ensure_file()
            memory.execute(f"attach '{_quoted(self.file)}' as disk (read_only)")
            for table in TABLES:
                memory.execute(f"create table internal.{table} as from disk.{table}")
            memory.execute("detach disk")
        return memory

    def manifest(self, version_id: str) -> Manifest:
        """A version's manifest; raises CorruptError when it is damaged."""
        return Manifest.model_validate(read_checked_json(self._manifests / f"{version_id}.json"))

    # -- writing ------------------------------------------------------------------------------------------------

    def commit(self, drafts: Sequence[Draft], run_id: str, step: StepRun | None) -> list[Manifest]:
        """Make a step's outputs visible, all at once. Drafts that are already versions keep their numbers."""
        with self._writing() as con:
            committed: list[Manifest] = []
            rows: Rows = defaultdict(list)
            for draft in drafts:
                path = self._manifests / f"{draft.version_id}.json"
                earlier = self.manifest(draft.version_id) if path.exists() else None
                if earlier and self.intact(earlier):
                    committed.append(earlier)
                    continue
                # Objects of the earlier manifest are gone: the version keeps its number and gets the new objects.
                version = earlier.version if earlier else self._next_version(con, draft.name)
                self._remove(con, draft.name, version)
                manifest = Manifest(**draft.model_dump(), version=version, run_id=run_id, created_at=_now())
                write_checked_json(path, manifest.model_dump(mode="json"))
                _merge(rows, _manifest_rows(manifest))
                committed.append(manifest)
            if step:
                event = Event(event="step", at=_now(), run_id=run_id, step=step)
                [(position,)] = con.execute("select count(*) from step_runs where run_id = ?", [run_id]).fetchall()
                self._append(event)
                rows["step_runs"].append({"run_id": run_id, **step.model_dump(), "position": position})
            _insert(con, rows)
        return committed

    def begin_run(self, pipeline: str, source: dict[str, Any]) -> str:
        """Record that a run started; the run counts as alive while this process holds its lock."""
        started = _now()
        run_id = f"{started:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        self._runs.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._runs / f"{run_id}.lock")
        lock.acquire()
        self._alive[run_id] = lock
        event = Event(event="started", at=started, run_id=run_id, pipeline=pipeline, source=source)
        with self._writing() as con:
            self._recover_runs(con)
            self._append(event)
            _insert(con, _event_rows([event]))
        return run_id

    def end_run(self, run_id: str, state: str, error: str | None = None, refs: dict[str, int] | None = None) -> None:
        """Record a run's end; `refs` (name -> version) become the latest versions, together."""
        event = Event.model_validate(
            {"event": "ended", "at": _now(), "run_id": run_id, "state": state, "error": error, "refs": refs or {}}
        )
        with self._writing() as con:
            self._end(con, event)
        lock = self._alive.pop(run_id)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)

    def mark_dead_runs(self) -> None:
        """Call runs `interrupted` whose process is gone."""
        with self._writing() as con:
            self._recover_runs(con)

    def intact(self, manifest: Manifest) -> bool:
        """Whether all of a version's objects are there, in the size they were written with."""
        parts: tuple[Any, ...] = (*manifest.data, *manifest.side, *manifest.attachments, manifest.key_object)
        return all(self._store.has(part.sha256, part.bytes) for part in parts)

    def rebuild(self) -> int:
        """Make the DuckDB file again from manifests and run journals; returns the number of versions."""
        with self._locked():
            return self._rebuild()

    # -- inside -------------------------------------------------------------------------------------------------

    def _end(self, con: duckdb.DuckDBPyConnection, event: Event) -> None:
        self._append(event)
        self._show_end(con, event)

    def _show_end(self, con: duckdb.DuckDBPyConnection, event: Event) -> None:
        con.execute(
            "update runs set state = ?, ended_at = ?, error = ? where run_id = ?",
            [event.state, _naive(event.at), event.error, event.run_id],
        )
        for name in event.refs:
            con.execute("delete from refs where name = ?", [name])
        _insert(con, {"refs": _event_rows([event])["refs"]})

    def _next_version(self, con: duckdb.DuckDBPyConnection, name: str) -> int:
        [(version,)] = con.execute("select coalesce(max(version), 0) + 1 from versions where name = ?", [name]).fetchall()
        return int(version)

    def _remove(self, con: duckdb.DuckDBPyConnection, name: str, version: int) -> None:
        for table in ("versions", "side_objects", "metrics"):
            con.execute(f"delete from {table} where name = ? and version = ?", [name, version])
        con.execute("delete from inputs where child = ? and child_version = ?", [name, version])

    def _recover_runs(self, con: duckdb.DuckDBPyConnection) -> None:
        """Take over what the journals of dead runs say, and end those that never came to their end."""
        known = dict(con.execute("select run_id, state from runs").fetchall())
        for path in sorted(self._runs.glob("*.ndjson")):
            run_id = path.stem
            if run_id in self._alive or known.get(run_id, "running") != "running":
                continue
            lock = FileLock(self._runs / f"{run_id}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            events = _read_journal(path)
            for table in ("runs", "step_runs"):
                con.execute(f"delete from {table} where run_id = ?", [run_id])
            _insert(con, {name: rows for name, rows in _event_rows(events).items() if name != "refs"})
            last = events[-1] if events else None
            if last and last.event == "ended":
                self._show_end(con, last)
            elif last:
                self._end(con, Event(event="ended", at=_now(), run_id=run_id, state="interrupted"))
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)

    def _append(self, event: Event) -> None:
        path = self._runs / f"{event.run_id}.ndjson"
        fresh = not path.exists()
        with path.open("r+b" if not fresh else "wb") as journal:
            # What stands behind the last newline was being written when a process died.
            journal.truncate(path.read_bytes().rfind(b"\n") + 1)
            journal.seek(0, os.SEEK_END)
            journal.write(event.model_dump_json(exclude_defaults=True).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
        if fresh:
            fsync_folder(self._runs)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        holder = self.root / "registry.lock.holder"
        try:
            self._lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            who = holder.read_text() if holder.exists() else "an unknown process"
            raise LockedError(
                f"the registry {self.root} has been locked for {LOCK_SECONDS:.0f} s by {who}. "
                "If that process is stuck, end it and run again: nothing committed is lost."
            ) from None
        try:
            holder.write_text(f"pid {os.getpid()} on {socket.gethostname()} ({' '.join(sys.argv)[:200]})")
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._locked():
            self._ensure_file()
            with duckdb.connect(str(self.file)) as con:
                self._adopt(con)
                con.execute("begin")
                yield con
                con.execute("commit")

    def _adopt(self, con: duckdb.DuckDBPyConnection) -> None:
        """Roll forward commits whose manifests were durable when their process died before the transaction."""
        on_disk = {path.stem for path in self._manifests.glob("*.json")}
        known = {version_id for (version_id,) in con.execute("select version_id from versions").fetchall()}
        rows: Rows = defaultdict(list)
        for version_id in sorted(on_disk - known):
            _merge(rows, _manifest_rows(self.manifest(version_id)))
        _insert(con, rows)

    def _ensure_file(self) -> None:
        if not self.file.exists():
            self._rebuild()

    def _rebuild(self) -> int:
        fresh = self.file.with_suffix(".building")
        fresh.unlink(missing_ok=True)
        rows: Rows = defaultdict(list)
        manifests = [self.manifest(path.stem) for path in self._manifests.glob("*.json")]
        for manifest in sorted(manifests, key=lambda m: (m.created_at, m.name, m.version)):
            _merge(rows, _manifest_rows(manifest))
        journals = [_read_journal(path) for path in sorted(self._runs.glob("*.ndjson"))]
        latest: dict[str, dict[str, Any]] = {}
        for events in journals:
            _merge(rows, _event_rows(events))
        for ref in sorted(rows.pop("refs", []), key=lambda ref: ref["updated_at"]):
            latest[ref["name"]] = ref
        rows["refs"] = list(latest.values())
        with duckdb.connect(str(fresh)) as con:
            con.execute(sql("tables.sql"))
            _insert(con, rows)
        # A log of the old file would not fit the new one.
        for log in (self.file, fresh):
            log.with_name(f"{log.name}.wal").unlink(missing_ok=True)
        os.replace(fresh, self.file)
        return len(manifests)


def sql(name: str) -> str:
    """The text of one of the registry's SQL files."""
    return files("registry").joinpath("sql", name).read_text()


def _read_journal(path: Path) -> list[Event]:
    # A line without its newline was being written when the process died: it never took effect.
    return [Event.model_validate_json(line) for line in path.read_bytes().split(b"\n")[:-1]]


def _manifest_rows(m: Manifest) -> Rows:
    here = {"name": m.name, "version": m.version}
    version = m.model_dump(
        include={"name", "version", "kind", "type", "content_id", "run_id", "pipeline", "step", "op", "output", "step_key"}
    )
    parents = [("data", ref) for ref in m.inputs] + [("model", ref) for ref in m.models]
    return {
        "versions": [
            {
                **version,
                "version_id": m.version_id,
                "fields": json.dumps(m.fields),
                "rows": m.rows,
                "bytes": m.bytes,
                "created_at": _naive(m.created_at),
            }
        ],
        "inputs": [
            {"child": m.name, "child_version": m.version, "position": position, "role": role}
            | {"parent": ref.name, "parent_version": ref.version}
            for position, (role, ref) in enumerate(parents)
        ],
        "side_objects": [{**here, **side.model_dump(exclude={"bytes"})} for side in m.side],
        "metrics": [{**here, **metric.model_dump()} for metric in m.metrics],
    }


def _event_rows(events: list[Event]) -> Rows:
    """The rows of one run's events, in order."""
    rows: Rows = defaultdict(list)
    for event in events:
        if event.event == "started":
            run = {"run_id": event.run_id, "pipeline": event.pipeline, "state": "running", "started_at": _naive(event.at)}
            rows["runs"].append({**run, "ended_at": None, "error": None})
        elif event.event == "step" and event.step:
            position = len(rows["step_runs"])
            rows["step_runs"].append({"run_id": event.run_id, **event.step.model_dump(), "position": position})
        elif event.event == "ended":
            for run in rows["runs"]:
                run |= {"state": event.state, "ended_at": _naive(event.at), "error": event.error}
            stamp = {"run_id": event.run_id, "updated_at": _naive(event.at)}
            rows["refs"] += [{"name": name, "version": version, **stamp} for name, version in event.refs.items()]
    return rows


def _merge(into: Rows, rows: Rows) -> None:
    for table, more in rows.items():
        into[table].extend(more)


def _insert(con: duckdb.DuckDBPyConnection, rows: Rows) -> None:
    for table in TABLES:
        if rows.get(table):
            con.register("incoming", pa.Table.from_pylist(rows[table]))
            con.execute(f"insert into {table} by name select * from incoming")
            con.unregister("incoming")


def _naive(moment: dt.datetime) -> dt.datetime:
    """UTC without a zone: DuckDB's `timestamp`."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
