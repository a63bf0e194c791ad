"""The catalog's tables in DuckDB, kept up to date with the files of record that they are made from.

A change is written in three steps, under the registry's lock: the intent, which names what will change; the files of record
(manifests, run journals, marks); and the tables, which are brought up to date for everything that the intent names. After a
crash, the next process takes the last step; it first removes the versions of a step that is not in the run's journal. What is
added to the tables is inserted before the intent, in the transaction that the last step commits: so nothing is written that
they cannot store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from registry.catalog.database import FULL, Database, disk_error, in_memory
from registry.catalog.files_of_record import FilesOfRecord
from registry.catalog.manifest import Event, Manifest
from registry.catalog.rows import TABLES, TableRows, add_events, add_versions, remove_run, remove_versions, replace_marks
from registry.catalog.run_journal import RunLog
from registry.catalog.write_ahead import Intent, IntentFile
from registry.errors import DamagedError, StaleError
from registry.storage import fault_points, plain_files
from registry.storage.files import Files
from registry.storage.lock import READ_ONLY, RegistryLock

_log = logging.getLogger("registry")
T = TypeVar("T")

_MOMENT_NS = 50_000_000
"""How finely file systems tell times, with room: the coarsest of Linux have ticks of 10 ms."""


class DerivedTables:
    """The tables of a registry, and the files of record that they are made from.

    Args:
        root: the folder of everything that is always on this machine: lock, DuckDB file, run journals, pins.
        manifests: `<version_id>.json` each.
    """

    def __init__(self, root: Path, manifests: Files) -> None:
        self.root = root
        self.files = FilesOfRecord(root, manifests)
        self._lock = RegistryLock(root)
        self._intent = IntentFile(root / "registry.intent")
        self._database = Database(root / "registry.duckdb")

    @property
    def file(self) -> Path:
        """The DuckDB file."""
        return self._database.file

    @property
    def runs(self) -> RunLog:
        """The journals of runs."""
        return self.files.runs

    def snapshot(self) -> duckdb.DuckDBPyConnection:
        """An in-memory database with a copy of the tables in schema `internal`; nothing on disk stays open."""
        with self._held(to_read=True):
            try:
                self._finish_pending()
                return self._repaired(self._database.copy)
            except OSError as error:
                return self._from_files(error)

    def state(self) -> tuple[int, ...] | None:
        """Something that changes whenever the DuckDB file does; None while that cannot be relied on.

        Files that are written in the same moment have the same time, so a file that has just been written has no state.
        """
        about = plain_files.about(self.file)
        if about is None or abs(time.time_ns() - about.st_mtime_ns) < _MOMENT_NS:
            return None
        return about.st_ino, about.st_size, about.st_mtime_ns

    def look_up(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query on the tables. Nothing is copied, so it costs the same however many versions there are."""
        with self._held(to_read=True):
            try:
                self._finish_pending()
                return self._repaired(lambda: self._database.look_up(query, values))
            except OSError as error:
                with self._from_files(error) as tables:
                    tables.execute("use memory.internal")
                    return tables.execute(query, list(values)).fetchall()

    def _from_files(self, error: OSError) -> duckdb.DuckDBPyConnection:
        """The tables as the files of record have them, for a DuckDB file that cannot be written."""
        if error.errno not in READ_ONLY:
            _log.warning("the catalog cannot be written, so the manifests and run journals are read instead: %s", error)
        return in_memory(self._rows())

    def rebuild(self) -> int:
        """Rebuild the DuckDB file from the files of record; returns the number of versions."""
        with self._held():
            self._withdraw()
            try:
                self._database.check()
            except StaleError as error:
                return self._rebuilt(error)
            return self._rebuilt(StaleError("on request"))

    def differences(self) -> list[str]:
        """The tables that differ from the files of record. There are none unless another program wrote to the DuckDB file."""
        with self._held(to_read=True), self.snapshot() as tables, in_memory(self._rows()) as files:
            queries = {table: f"select * from internal.{table} order by all" for table in TABLES}
            # Compared as text, because a metric may be NaN, which is not equal to itself.
            return [
                table
                for table, query in queries.items()
                if repr(tables.execute(query).fetchall()) != repr(files.execute(query).fetchall())
            ]

    # -- for changes --------------------------------------------------------------------------------------------

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
    def _adding(
        self, manifests: Sequence[Manifest] = (), events: Sequence[Event] = (), replaced: Sequence[str] = ()
    ) -> Iterator[None]:
        """Add versions and events of runs to the tables; the block writes the same into the files of record.

        Args:
            replaced: the ids of those versions that the tables have already.

        Raises:
            UnfitError: the tables cannot store a value. Nothing was changed.
        """

        def apply(con: duckdb.DuckDBPyConnection) -> None:
            if replaced:
                remove_versions(con, replaced)
            add_versions(con, manifests)
            add_events(con, events)

        self._repaired(lambda: self._database.begin(apply))
        try:
            runs = dict.fromkeys(event.run_id for event in events)
            versions = tuple(each.version_id for each in manifests)
            unproven = tuple(each for each in versions if each not in replaced) if runs else ()
            self._intent.write(Intent(versions=versions, runs=tuple(runs), unproven=unproven))
            yield
        except BaseException:
            self._database.rollback()
            raise
        try:
            self._database.commit()
        except StaleError as error:
            self._rebuilt(error)
        self._intent.clear()

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
            self._withdraw()
            self._update_tables(intent)
            self._intent.clear()

    def _withdraw(self) -> None:
        """Remove the versions of a step that was only half committed."""
        for version_id in self._unrecorded():
            self.files.remove(version_id)

    def _unrecorded(self) -> set[str]:
        """The ids of versions whose step is not in the run's journal, because the process died.

        A step's versions are visible all at once or not at all.
        """
        intent = self._intent.read()
        if intent is None or not intent.unproven:
            return set()
        named = {each for run_id in intent.runs for each in self.runs.outputs(run_id)}
        found = filter(None, map(self.files.find, intent.unproven))
        return {each.version_id for each in found if (each.name, each.version) not in named}

    def _rows(self) -> TableRows:
        """The rows of the tables, as the files of record have them."""
        return self.files.rows(self._unrecorded())

    def _update_tables(self, intent: Intent) -> None:
        """Update the tables for everything that an intent names."""
        if intent.everything:
            self._rebuilt(StaleError("it was being made"))
            return
        found = [manifest for version_id in intent.versions if (manifest := self.files.find(version_id))]
        events = {run_id: self.runs.read(run_id) for run_id in intent.runs}
        marks = self.files.marks() if intent.marks else None

        def apply(con: duckdb.DuckDBPyConnection) -> None:
            if intent.versions:
                remove_versions(con, intent.versions)
                add_versions(con, found)
            for run_id, of_run in events.items():
                remove_run(con, run_id)
                add_events(con, of_run)
            if marks is not None:
                replace_marks(con, marks)

        try:
            self._database.begin(apply)
            self._database.commit()
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
        rows = self.files.rows()
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
