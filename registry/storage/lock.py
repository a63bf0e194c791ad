"""The registry's lock: one process at a time changes or copies the catalog, and who waits is told for whom.

The lock is the operating system's, so it is free as soon as its holder is gone, however that came about.
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

LOCK_SECONDS = 60.0
"""How long a lock is waited for; ENGINE_LOCK_SECONDS names another time."""

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a folder that one may not write to."""

_TELL_SECONDS = 2.0
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
        """Hold the lock; raises LockedError, which names the holder, when it does not come free.

        Args:
            to_read: nothing is to be written, so a registry will do that one may only read.
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
                # Wiped before the lock is free: a signature of a living process is that of the holder.
                self._sign("")
                self._lock.release()
            return
        with self._held_read_only():
            yield

    @contextmanager
    def _held_read_only(self) -> Iterator[None]:
        """Hold the lock through a file that cannot be written to. Where nobody can have made one, nobody writes."""
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
        # For messages only: neither a full disk nor a link in the way keeps anyone from reading.
        with suppress(OSError, CorruptError), plain_files.written(self._holder) as file:
            file.truncate(0)
            file.write(text.encode())

    def _who(self) -> str:
        try:
            told = json.loads(plain_files.read(self._holder))
            told["host"], told["pid"], told["birth"], told["command"], told["since"]
        except (OSError, ValueError, CorruptError, TypeError, KeyError, RecursionError):
            return "a process that has not given its name yet"
        here = told["host"] == socket.gethostname()
        if here and _birth(told["pid"]) != told["birth"]:
            # What a process left that was killed while it held the lock.
            return "a process that has not given its name yet"
        return f"process {told['pid']} on {told['host']} ({told['command']}) since {told['since']}"


def flocked(file: IO[bytes], how: int) -> bool:
    """Whether a lock on an open file was free. Where files that cannot be written to cannot be locked, it counts as free."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EBADF:  # what NFS gives
            raise
    return True


def wait_for(attempt: Callable[[], bool], what: str, who: Callable[[], str], every: float = 0.05) -> None:
    """Try until it works; a warning says once, after a while, what is waited for.

    Nothing is said as long as those in the way take turns: then it is only busy.

    Args:
        attempt: gives whether it worked.
        what: is in the way.
        who: has put it there.
        every: seconds between attempts.

    Raises:
        LockedError: it did not work within LOCK_SECONDS (ENGINE_LOCK_SECONDS).
    """
    started = looked = time.monotonic()
    seen, told = "", False
    while not attempt():
        now, patience = time.monotonic(), lock_seconds()
        if now - started > patience:
            raise LockedError(
                f"{what} {who()}; gave up after {patience:g} s. "
                "If that process is stuck, end it and run again: nothing committed is lost."
            )
        if now - looked > _TELL_SECONDS / 2 and not told:
            before, seen, looked = seen, who(), now
            told = seen == before
            if told:
                _log.warning("%s %s; waiting up to %g s for it", what, seen, patience)
        time.sleep(every)


def lock_seconds() -> float:
    """How long to wait; raises ValueError when ENGINE_LOCK_SECONDS is no number."""
    told = os.environ.get("ENGINE_LOCK_SECONDS")
    try:
        return float(told) if told else LOCK_SECONDS
    except ValueError:
        raise ValueError(f"ENGINE_LOCK_SECONDS is {told!r}; give a number of seconds") from None


def _signature() -> str:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
    told = {"pid": os.getpid(), "birth": _birth(os.getpid()), "host": socket.gethostname(), "command": command}
    return json.dumps(told | {"since": f"{dt.datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"})


def _birth(pid: int) -> str | None:
    """When a process of this machine began, which tells it from a later one of the same number; None: it is not running."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _running(pid)
    return None if state in "ZX" else fields[18]


def _running(pid: int) -> str | None:
    """The same, less exactly, for systems without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it is someone else's
    return "running"
