"""The catalog of versions and runs. Manifests and run journals are the record; DuckDB tables are made from them.

A change is written in three steps, under the registry's lock: the intent, which names what will change; the files of record
(manifests, run journals, marks); and the tables, which are brought up to date for everything that the intent names. After a
crash, the next process takes the last step.
"""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import duckdb

from registry.catalog.database import FULL, Database, disk_error, in_memory, sql
from registry.catalog.files_of_record import Truth
from registry.catalog.manifest import Draft, Event, Given, Manifest, Pin, StepRun
from registry.catalog.rows import TABLES, manifest_rows, merged, replace_marks, replace_run, replace_versions, run_rows
from registry.catalog.run_journal import RunLog, sealed
from registry.catalog.write_ahead import Intent, IntentFile
from registry.errors import CorruptError, DamagedError, StaleError
from registry.storage import fault_points, plain_files
from registry.storage.files import Files
from registry.storage.lock import READ_ONLY, RegistryLock
from registry.storage.objects import ObjectStore
from registry.storage.shared_lock import SharedLock

__all__ = ["Catalog", "sql"]

_log = logging.getLogger("registry")
T = TypeVar("T")


class Catalog:
    """The tables of a registry and the files of record that they are made from.

    Args:
        root: the folder of everything that is always on this machine: lock, DuckDB file, run journals, pins.
        store: contains the objects of the versions.
        manifests: `<version_id>.json` each.
    """

    def __init__(self, root: Path, store: ObjectStore, manifests: Files) -> None:
        self.root = root
        self.readers = SharedLock(root / "registry.readers", f"versions of the registry {root} are being removed")
        self._store = store
        self._truth = Truth(root, manifests)
        self._lock = RegistryLock(root)
        self._intent = IntentFile(root / "registry.intent")
        self._database = Database(root / "registry.duckdb")

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        """The DuckDB file."""
        return self._database.file

    @property
    def runs(self) -> RunLog:
        """The journals of runs."""
        return self._truth.runs

    @property
    def truth(self) -> Truth:
        """The files of record."""
        return self._truth

    def snapshot(self) -> duckdb.DuckDBPyConnection:
        """An in-memory database with a copy of the tables in schema `internal`; nothing on disk stays open."""
        with self._held(to_read=True):
            try:
                self._finish_pending()
                return self._repaired(self._database.copy)
            except OSError as error:
                if error.errno not in READ_ONLY:
                    _log.warning("the catalog cannot be written, so the manifests and run journals are read instead: %s", error)
                return in_memory(self._truth.rows())

    def look_up(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query on the tables. Nothing is copied, so it costs the same however many versions there are."""
        with self._held(to_read=True):
            try:
                self._finish_pending()
                return self._repaired(lambda: self._database.look_up(query, values))
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise
                with in_memory(self._truth.rows()) as tables:
                    tables.execute("use memory.internal")
                    return tables.execute(query, list(values)).fetchall()

    def manifest(self, version_id: str) -> Manifest:
        """A version's manifest; raises CorruptError when it is damaged, FileNotFoundError when there is none."""
        return self._truth.manifest(version_id)

    def reading(self) -> IO[bytes]:
        """Keep all versions from being removed until the returned file is closed. Raises LockedError."""
        with self._held(
            to_read=True
        ):  # garbage collection holds this lock while it waits for readers, so nobody starts to read meanwhile
            return self.readers.join()

    def touch(self, version_id: str) -> Manifest:
        """Return the manifest, and mark the version as made now, so that it is kept while any run of now is live."""
        self._truth.touch(version_id)
        return self.manifest(version_id)

    def intact(self, manifest: Draft) -> bool:
        """Whether all of a version's objects are there, in the size they were written with."""
        return not self._missing(manifest)

    # -- writing ------------------------------------------------------------------------------------------------

    def commit(
        self, drafts: Sequence[Draft], run_id: str, step: StepRun | None, hits: Sequence[Manifest] = ()
    ) -> list[Manifest]:
        """Make the outputs of a step visible, all at once. Drafts that already are versions keep their numbers.

        Args:
            drafts: the outputs of the step.
            step: the record of the step; None for sources.
            hits: the versions that were reused, if the step was a hit.

        Raises:
            CorruptError: objects of a draft are missing. Nothing was changed.
            UnfitError: the catalog cannot hold a value of the step or a draft. Nothing was changed.
        """
        with self._locked():
            asked = [draft.version_id for draft in drafts]
            query = "select version_id, version from versions where list_contains(?, version_id)"
            earlier = dict(self._query(query, [asked]))
            made = {version_id: self.touch(version_id) for version_id in earlier if self._is_whole(version_id)}
            fresh = [draft for draft in drafts if draft.version_id not in made]
            for draft in fresh:
                if gone := self._missing(draft):
                    raise CorruptError(
                        f"{len(gone)} objects of {draft.name} are missing from the registry, for example {gone[0]}: they were "
                        "removed before the version was committed. Run again to restore them."
                    )
            numbers = self._numbers_given(draft.name for draft in fresh)
            for draft in fresh:
                # When the manifest is damaged or objects are missing, the version keeps its number and gets the new objects.
                if draft.version_id not in earlier:
                    numbers[draft.name] += 1
                number = earlier.get(draft.version_id, numbers[draft.name])
                made[draft.version_id] = Manifest(**draft.model_dump(), version=number, run_id=run_id, created_at=_now())
            manifests = [made[draft.version_id] for draft in drafts]
            changed = {draft.version_id: made[draft.version_id] for draft in fresh}
            self._database.prove(merged(map(manifest_rows, changed.values())))
            line = None
            if step:
                pipeline = self.runs.pipeline(run_id)
                event = Event(event="step", at=_now(), run_id=run_id, pipeline=pipeline, step=step)
                line = self._sealed(event, manifests or hits)
            if line or changed:
                with self._changing(Intent(versions=tuple(changed), runs=(run_id,) if line else ())):
                    for manifest in changed.values():
                        self._truth.write(manifest)
                    if line:
                        self.runs.append(run_id, line)
        return manifests

    def begin_run(self, pipeline: str, source: dict[str, Any], began: dt.datetime | None = None) -> str:
        """Record that a run started; the run is live while this process holds its lock.

        Args:
            began: when the run began to look up versions, if that was earlier.
        """
        at = began or _now()
        run_id = f"{at:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        event = Event(event="started", at=at, run_id=run_id, pipeline=pipeline, source=source)
        line = sealed(event)  # before the lock, because the first call takes a while
        with self._locked():
            self._database.prove(run_rows([event]))
            self._end_dead_runs()
            self.runs.claim(run_id)
            try:
                with self._changing(Intent(runs=(run_id,))):
                    self.runs.append(run_id, line)
            except BaseException:
                self.runs.release(run_id)
                raise
        return run_id

    def end_run(self, run_id: str, state: str, error: str | None = None, refs: dict[str, int] | None = None) -> None:
        """Record the end of a run; `refs` (name -> version) become the latest versions, all at once."""
        with self._locked():
            self._end([run_id], state, error, refs or {})
        self.runs.release(run_id)

    def mark_dead_runs(self) -> None:
        """Mark runs as `interrupted` whose process has died. Does nothing in a read-only registry."""
        try:
            with self._locked():
                self._end_dead_runs()
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise

    def rebuild(self) -> int:
        """Rebuild the DuckDB file from the files of record; returns the number of versions."""
        with self._held():
            try:
                self._database.check()
            except StaleError as error:
                return self._rebuilt(error)
            return self._rebuilt(StaleError("on request"))

    def differences(self) -> list[str]:
        """The tables that differ from the files of record. There are none unless another program wrote to the DuckDB file."""
        with self._held(to_read=True), self.snapshot() as tables, in_memory(self._truth.rows()) as truth:
            queries = {table: f"select * from internal.{table} order by all" for table in TABLES}
            # Compared as text, because a metric may be NaN, which is not equal to itself.
            return [
                table
                for table, query in queries.items()
                if repr(tables.execute(query).fetchall()) != repr(truth.execute(query).fetchall())
            ]

    # -- keeping and forgetting ---------------------------------------------------------------------------------

    def pin(self, name: str, version: int) -> None:
        """Keep a version for good; raises KeyError when it does not exist."""
        with self._locked():
            if not self._query("select 1 from versions where name = ? and version = ?", [name, version]):
                raise KeyError(f"{name}@{version}")
            with self._changing(Intent(marks=True)):
                self._truth.pins.write(Pin(name=name, version=version, pinned_at=_now()))

    def unpin(self, name: str, version: int) -> None:
        """Remove a pin; raises KeyError when there is none."""
        with self._locked():
            if not self._query("select 1 from pins where name = ? and version = ?", [name, version]):
                raise KeyError(f"{name}@{version} is not pinned")
            with self._changing(Intent(marks=True)):
                self._truth.pins.remove([name, version])

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the registry's lock for a block. Meanwhile nobody else commits, starts to read, or starts or ends a run."""
        return self._held()

    def live_since(self) -> dt.datetime | None:
        """When the oldest live run began; None when no run is live."""
        with self._locked():
            running = self._query("select run_id, started_at from runs where state = 'running' order by started_at")
            began = next((began for run_id, began in running if self.runs.is_live(run_id)), None)
            return began.replace(tzinfo=dt.UTC) if began else None

    def forget(self, version_ids: Sequence[str]) -> None:
        """Remove versions, but not their objects. Their numbers are never used again."""
        with self._locked():
            gone = self._query(
                "select name, max(version) from versions where list_contains(?, version_id) group by name", [list(version_ids)]
            )
            given = self._numbers_given(name for name, _ in gone)
            with self._changing(Intent(versions=tuple(version_ids), marks=True)):
                for name, version in gone:
                    if version == given[name]:
                        self._truth.numbers.write(Given(name=name, version=version))
                for version_id in version_ids:
                    self._truth.remove(version_id)

    # -- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock, with tables that are up to date."""
        with self._held():
            self._finish_pending()
            yield

    @contextmanager
    def _held(self, to_read: bool = False) -> Iterator[None]:
        with self._lock.held(to_read):
            try:
                yield
            except OSError as error:
                if error.errno not in FULL or error.filename:
                    raise
                # Python does not name the file that could not be written.
                raise disk_error(error.errno, self.root) from error
            finally:
                self._database.close()

    @contextmanager
    def _changing(self, intent: Intent) -> Iterator[None]:
        """Change the files of record in the block, then update the tables. After a failure, the next process updates them."""
        self._intent.write(intent)
        yield
        self._update_tables(intent)
        self._intent.clear()

    def _finish_pending(self) -> None:
        """Finish the change of a process that died, or whose disk was full."""
        intent = self._intent.read()
        if intent is None and not plain_files.kind(self.file):
            intent = Intent(everything=True)
        if intent:
            self._update_tables(intent)
            self._intent.clear()

    def _update_tables(self, intent: Intent) -> None:
        """Update the tables for everything that an intent names."""
        if intent.everything:
            self._rebuilt(StaleError("it was being made"))
            return
        found = [manifest for version_id in intent.versions if (manifest := self._truth.find(version_id))]
        events = {run_id: self.runs.read(run_id) for run_id in intent.runs}
        marks = self._truth.marks() if intent.marks else None

        def apply(con: duckdb.DuckDBPyConnection) -> None:
            if intent.versions:
                replace_versions(con, intent.versions, found)
            for run_id, of_run in events.items():
                replace_run(con, run_id, of_run)
            if marks is not None:
                replace_marks(con, marks)

        try:
            self._database.change(apply)
        except StaleError as error:
            self._rebuilt(error)

    def _repaired(self, use: Callable[[], T]) -> T:
        """Read the DuckDB file. If it turns out to be damaged or stale, rebuild it and read again."""
        try:
            return use()
        except StaleError as error:
            self._rebuilt(error)
            return use()

    def _query(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._repaired(lambda: self._database.query(query, values))

    def _rebuilt(self, reason: StaleError) -> int:
        """Rebuild the DuckDB file; returns the number of versions. A damaged file is kept under another name."""
        rows = self._truth.rows()
        self._intent.write(Intent(everything=True))
        fault_points.point("rebuild.begun")
        if isinstance(reason, DamagedError):
            _log.warning(
                "the catalog %s is damaged (%s). It was moved to %s and rebuilt from the files of record; nothing is lost",
                self.file,
                reason,
                self._database.set_aside().name,
            )
        self._database.make(rows)
        self._intent.clear()
        return len(rows["versions"])

    def _is_whole(self, version_id: str) -> bool:
        try:
            return self.intact(self.manifest(version_id))
        except (CorruptError, FileNotFoundError):
            return False

    def _missing(self, version: Draft) -> list[str]:
        """The objects of a version that are missing, or do not have the size they were written with."""
        return [part.sha256 for part in version.objects() if not self._store.has(part.sha256, part.bytes)]

    def _numbers_given(self, names: Iterable[str]) -> dict[str, int]:
        """The highest version number that each name ever had; 0 for a name that had none."""
        wanted = list(names)
        found = self._query(
            "select name, max(version) from (select name, version from versions union all select name, version from numbers) "
            "where list_contains(?, name) group by name",
            [wanted],
        )
        return dict.fromkeys(wanted, 0) | dict(found)

    def _end(self, run_ids: Sequence[str], state: str, error: str | None = None, refs: dict[str, int] | None = None) -> None:
        [(last,)] = self._query("select max(updated_at) from refs")
        # Clocks may stop or go back, but the later of two runs that move a reference must have the later time.
        at = max(_now(), last.replace(tzinfo=dt.UTC) + dt.timedelta(microseconds=1)) if last else _now()
        lines = {}
        for run_id in run_ids:
            fields = {"event": "ended", "at": at, "run_id": run_id, "pipeline": self.runs.pipeline(run_id)}
            event = Event.model_validate({**fields, "state": state, "error": error, "refs": refs or {}})
            lines[run_id] = self._sealed(event)
        with self._changing(Intent(runs=tuple(run_ids))):
            for run_id, line in lines.items():
                self.runs.append(run_id, line)

    def _sealed(self, event: Event, manifests: Sequence[Manifest] = ()) -> bytes:
        """An event as a line of a journal; raises UnfitError when the tables cannot hold its values."""
        self._database.prove(run_rows([event]))
        return sealed(event, manifests)

    def _end_dead_runs(self) -> None:
        running = self._query("select run_id from runs where state = 'running' order by run_id")
        dead = [run_id for (run_id,) in running if not self.runs.is_live(run_id)]
        # There is nothing to record about a run without a journal.
        lost = [run_id for run_id in dead if not self.runs.read(run_id)]
        if lost:
            self._update_tables(Intent(runs=tuple(lost)))
        if ended := [run_id for run_id in dead if run_id not in lost]:
            self._end(ended, "interrupted")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
