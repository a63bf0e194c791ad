"""The registry's lock: one process at a time changes or reads the catalog, and a waiting process names the holder.

The lock is the operating system's, so it is released as soon as its holder ends, for whatever reason.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from filelock import FileLock, Timeout

from registry.errors import CorruptError, LockedError
from registry.storage import plain_files
from registry.storage.processes import start_time

LOCK_SECONDS = 60.0
"""How long to wait for a lock; ENGINE_LOCK_SECONDS overrides it."""

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a folder that is not writable."""

_WARN_SECONDS = 2.0
_POLL_SECONDS = 0.005

_log = logging.getLogger("registry")


class RegistryLock:
    """The lock of a registry folder. A thread that holds it may take it again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = FileLock(root / "registry.lock")
        self._read_only: BinaryIO | None = None
        self._holder = root / "registry.lock.holder"

    @contextmanager
    def held(self, to_read: bool = False) -> Iterator[None]:
        """Hold the lock; raises LockedError, which names the holder, when it is not released in time.

        Args:
            to_read: nothing will be written, so a read-only registry is fine.
        """
        if self._lock.is_locked or self._read_only:
            yield
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._wait(self._acquired)
        except OSError as error:
            if not to_read or error.errno not in READ_ONLY:
                raise
        else:
            try:
                self._sign(_signature())
                yield
            finally:
                # Cleared before the lock is released: the signature of a live process is always that of the holder.
                self._sign("")
                self._lock.release()
            return
        with self._held_read_only():
            yield

    @contextmanager
    def _held_read_only(self) -> Iterator[None]:
        """Hold the lock through a read-only file. If there is no such file, nobody writes to the registry."""
        try:
            file = plain_files.opened(self._root / "registry.lock")
        except (FileNotFoundError, PermissionError):
            yield
            return
        with file:
            self._wait(lambda: flocked(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
            self._read_only = file
            try:
                yield
            finally:
                self._read_only = None

    def _wait(self, attempt: Callable[[], bool]) -> None:
        wait_for(attempt, f"the registry {self._root} is locked", lambda: f"by {self._who()}", _POLL_SECONDS)

    def _acquired(self) -> bool:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def _sign(self, text: str) -> None:
        # For messages only: neither a full disk nor a link may prevent reading.
        with suppress(OSError, CorruptError), plain_files.written(self._holder) as file:
            file.truncate(0)
            file.write(text.encode())

    def _who(self) -> str:
        try:
            holder = json.loads(plain_files.read(self._holder))
            holder["host"], holder["pid"], holder["birth"], holder["command"], holder["since"]
        except (OSError, ValueError, CorruptError, TypeError, KeyError, RecursionError):
            return "a process that has not identified itself yet"
        here = holder["host"] == socket.gethostname()
        if here and start_time(holder["pid"]) != holder["birth"]:
            # Left by a process that was killed while it held the lock.
            return "a process that has not identified itself yet"
        return f"process {holder['pid']} on {holder['host']} ({holder['command']}) since {holder['since']}"


def flocked(file: IO[bytes], how: int) -> bool:
    """Lock an open file; returns False when it is locked. Where read-only files cannot be locked, returns True."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EBADF:  # on NFS
            raise
    return True


def wait_for(attempt: Callable[[], bool], what: str, who: Callable[[], str], every: float = 0.05) -> None:
    """Repeat an attempt until it succeeds; after a while, log a warning that says what it waits for.

    There is no warning while the holders change: then the registry is only busy.

    Args:
        attempt: returns whether it succeeded.
        what: the obstacle.
        who: the holder.
        every: seconds between attempts.

    Raises:
        LockedError: no attempt succeeded within LOCK_SECONDS (or ENGINE_LOCK_SECONDS).
    """
    started = looked = time.monotonic()
    seen, warned = "", False
    while not attempt():
        now, patience = time.monotonic(), lock_seconds()
        if now - started > patience:
            raise LockedError(
                f"{what} {who()}; gave up after {patience:g} s. "
                "If that process is stuck, end it and run again: nothing committed is lost."
            )
        if now - looked > _WARN_SECONDS / 2 and not warned:
            before, seen, looked = seen, who(), now
            warned = seen == before
            if warned:
                _log.warning("%s %s; waiting up to %g s for it", what, seen, patience)
        time.sleep(every)


def lock_seconds() -> float:
    """How long to wait; raises ValueError when ENGINE_LOCK_SECONDS is not a number."""
    chosen = os.environ.get("ENGINE_LOCK_SECONDS")
    try:
        return float(chosen) if chosen else LOCK_SECONDS
    except ValueError:
        raise ValueError(f"ENGINE_LOCK_SECONDS is {chosen!r}; set it to a number of seconds") from None


def _signature() -> str:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
    signature = {"pid": os.getpid(), "birth": start_time(os.getpid()), "host": socket.gethostname(), "command": command}
    return json.dumps(signature | {"since": f"{dt.datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"})
