"""The DuckDB file of a registry: opened for a moment by the holder of the registry's lock, and never trusted blindly.

DuckDB allows one writing process or many readers. The file is attached to an in-memory database that lives as long as the
process, which takes a twentieth of the time of opening it. A commit writes straight into the file: no log has to be replayed.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from registry.catalog.rows import TABLES, TableRows, insert
from registry.catalog.sql_files import sql
from registry.errors import DamagedError, StaleError, is_interruption
from registry.storage import fault_points, plain_files
from registry.storage.files import fsync_folder
from registry.storage.lock import wait_for

_BLOCK_BYTES = 16384
"""The smallest block size of DuckDB: a commit writes a few blocks."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without room."""

_NEWER = "Trying to read a database file with version number"
"""DuckDB's message about a file of a newer version."""

_DISK = (*FULL, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE)
"""Errors of the disk, or of the limits of the process, rather than the file. DuckDB reports them with the system's message."""

_ADVICE = {
    **dict.fromkeys(FULL, "free some space on that disk"),
    errno.EFBIG: "raise the limit for the size of files (ulimit -f)",
}


class Database:
    """Reads, changes and creates the file. Not for several threads or processes at a time.

    Reading and changing open it, `close` closes it. All methods raise StaleError or DamagedError when the file cannot be
    used, LockedError when another process has it open (a DuckDB shell), and OSError, with advice, when the disk fails.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._log = file.with_name(f"{file.name}.wal")
        self._con: duckdb.DuckDBPyConnection | None = None
        self._open = False

    def query(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of the tables."""
        with self._opened() as con:
            return con.execute(query, list(values)).fetchall()

    def look_up(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of the tables, from a file that may be read-only. It is closed again at once."""
        self.close()
        try:
            with _explained(self.file):
                con = self._connected()
                self._attach(con, "read_only")
                con.execute("use disk")
                found = con.execute(query, list(values)).fetchall()
                con.execute("use memory; detach disk")
        except BaseException:
            self._drop()
            raise
        return found

    def begin(self, apply: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        """Change the tables in a transaction that stays open: nothing is written before `commit`."""
        with self._opened() as con:
            con.execute("begin")
            apply(con)
        fault_points.point("catalog.changed")

    def commit(self) -> None:
        """Write the changes since `begin` durably."""
        with self._opened() as con:
            con.execute("commit")
        fault_points.point("catalog.committed")

    def rollback(self) -> None:
        """Drop the changes since `begin`."""
        with self._opened() as con:
            con.execute("rollback")

    def check(self) -> None:
        """Check that the file opens, and that no other process has it open."""
        with self._opened():
            pass

    def copy(self) -> duckdb.DuckDBPyConnection:
        """A database in memory with the tables in schema `internal`; nothing on disk stays open."""
        self.close()
        memory = _in_memory()
        try:
            with _explained(self.file):
                self._attach(memory, "read_only")
                memory.execute(";".join(f"create table internal.{table} as from disk.{table}" for table in TABLES))
                memory.execute("detach disk")
        except BaseException:
            memory.close()
            raise
        return memory

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._open and self._con:
            try:
                self._con.execute("use memory; detach disk")
                self._open = False
            except duckdb.Error:
                # The file contains what was committed. If it is damaged, the next process that opens it notices.
                self._drop()
            except RuntimeError as error:
                self._drop()
                _raise_interruption(error)
                raise

    def make(self, rows: TableRows) -> None:
        """Create the file with these rows, replacing the old one."""
        self.close()
        fresh = self.file.with_suffix(".building")
        fresh.unlink(missing_ok=True)
        try:
            with _explained(fresh):
                con = self._connected()
                con.execute(f"attach '{_quoted(fresh)}' as disk (block_size {_BLOCK_BYTES})")
                con.execute("use disk")
                con.execute("begin")
                con.execute(sql("tables.sql"))
                con.execute("insert into layout values (?)", [_layout()])
                insert(con, rows)
                con.execute("commit")
                con.execute("use memory; detach disk")
        except BaseException:
            self._drop()
            fresh.unlink(missing_ok=True)
            raise
        fault_points.point("rebuild.filled")
        # A log of the old file would not fit the new one.
        self._log.unlink(missing_ok=True)
        os.replace(fresh, self.file)
        fsync_folder(self.file.parent)
        fault_points.point("rebuild.replaced")

    def set_aside(self) -> Path:
        """Move a damaged file and its log out of the way; returns the new path."""
        self.close()
        aside = self.file.with_name(f"{self.file.name}.damaged-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S.%fZ}")
        os.replace(self.file, aside)
        if plain_files.kind(self._log):
            os.replace(self._log, aside.with_name(f"{aside.name}.wal"))
        fault_points.point("damage.moved")
        return aside

    # -- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with _explained(self.file):
                con = self._connected()
                if not self._open:
                    self._attach(con, "read_write")
                    con.execute("use disk")
                    self._open = True
                yield con
        except BaseException:
            # After some errors, DuckDB invalidates the database or the whole process.
            self._drop()
            raise

    def _connected(self) -> duckdb.DuckDBPyConnection:
        if self._con is None:
            self._con = duckdb.connect(":memory:", config={"threads": 1})
            self._con.execute("set checkpoint_threshold='0b'")
        return self._con

    def _drop(self) -> None:
        if self._con:
            self._con.close()
        self._con, self._open = None, False

    def _attach(self, con: duckdb.DuckDBPyConnection, mode: str) -> None:
        kind = plain_files.kind(self.file)
        if not kind:
            raise StaleError("it does not exist")
        if kind != "a file":
            raise DamagedError(f"it is {kind}")
        log = plain_files.kind(self._log)
        if log not in (None, "a file"):
            raise DamagedError(f"{self._log.name} is {log}")
        in_use = ""

        def attached() -> bool:
            nonlocal in_use
            try:
                con.execute(f"attach '{_quoted(self.file)}' as disk ({mode})")
            except duckdb.Error as error:
                in_use = _in_use(error)
                if not in_use:
                    raise
                return False
            return True

        wait_for(attached, f"the catalog {self.file} is open", lambda: in_use)
        if log:
            # DuckDB silently skips damaged parts of a log. We only leave a log after a crash.
            raise StaleError("its last writer died during a commit")
        try:
            found = con.execute("select digest from disk.layout").fetchall()
        except duckdb.CatalogException:
            raise StaleError("it has no layout") from None
        if found != [(_layout(),)]:
            raise StaleError("it has another layout")


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn DuckDB's errors into ours."""
    try:
        yield
    except duckdb.Error as error:
        text = str(error).strip()
        for code in _DISK:
            if os.strerror(code) in text:
                raise disk_error(code, file) from error
        if _NEWER in text:
            raise StaleError("another version of DuckDB wrote it") from error
        raise DamagedError(text.partition("\n")[0]) from error
    except RuntimeError as error:
        _raise_interruption(error)
        raise


def _raise_interruption(error: RuntimeError) -> None:
    """Raise KeyboardInterrupt if that is what DuckDB made this error from."""
    if is_interruption(error):
        raise KeyboardInterrupt from error


def in_memory(rows: TableRows) -> duckdb.DuckDBPyConnection:
    """The same as `Database.copy`, made from these rows without a file."""
    memory = _in_memory()
    memory.execute("use memory.internal")
    memory.execute(sql("tables.sql"))
    insert(memory, rows)
    memory.execute("use memory.main")
    return memory


def disk_error(code: int, where: Path) -> OSError:
    """An error of the disk, with advice."""
    advice = _ADVICE.get(code, "fix that")
    return OSError(code, f"{os.strerror(code)}: {advice} and run again; nothing committed is lost", str(where))


def _in_memory() -> duckdb.DuckDBPyConnection:
    memory = duckdb.connect(":memory:")
    memory.execute("create schema internal")
    return memory


@cache
def _layout() -> str:
    return hashlib.sha256(sql("tables.sql").encode()).hexdigest()


def _in_use(error: duckdb.Error) -> str:
    """Where the file is open, if that is why DuckDB refuses to open it; otherwise empty."""
    if found := re.search(r"Conflicting lock is held in (.*) \(PID (\d+)\)", str(error)):
        return f"in process {found[2]} ({found[1]})"
    return "in another process" if "Could not set lock on file" in str(error) else ""


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
