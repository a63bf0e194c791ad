"""Shared and exclusive locks of the operating system, which are released as soon as their holders end."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

from registry.storage import plain_files
from registry.storage.lock import READ_ONLY, flocked, wait_for

_SHARED, _EXCLUSIVE = fcntl.LOCK_SH | fcntl.LOCK_NB, fcntl.LOCK_EX | fcntl.LOCK_NB
_POLL_SECONDS = 0.002


class SharedLock:
    """A lock on a file. It is held until the returned file is closed.

    Args:
        path: the file; created when it is first locked.
        what: the obstacle for waiting processes, for messages.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what

    def join(self) -> IO[bytes]:
        """Hold it shared. Raises LockedError when a process holds it exclusively for too long."""
        return self._waited(lambda: self._held(_SHARED))

    def take(self) -> IO[bytes]:
        """Hold it exclusively. Raises LockedError when others hold it for too long."""
        return self._waited(self.try_to_take)

    def try_to_take(self) -> IO[bytes] | None:
        """Hold it exclusively; None when others hold it."""
        return self._held(_EXCLUSIVE)

    def holders(self) -> str:
        """Who holds it, for messages, as far as this machine knows."""
        try:
            inode, locks = self._path.stat().st_ino, Path("/proc/locks").read_text()
        except OSError:
            return "by another process"
        pids = {int(pid) for pid in re.findall(rf"^\d+: FLOCK .* (\d+) \S+:{inode} ", locks, re.MULTILINE)}
        return f"by {' and '.join(map(_described, sorted(pids - {0}))) or 'another process'}"

    def _waited(self, attempt: Callable[[], IO[bytes] | None]) -> IO[bytes]:
        held: list[IO[bytes]] = []

        def holds() -> bool:
            held.extend(filter(None, [attempt()]))
            return bool(held)

        wait_for(holds, self._what, self.holders, _POLL_SECONDS)
        return held[0]

    def _held(self, how: int) -> IO[bytes] | None:
        file = self._opened(to_read=how == _SHARED)
        if flocked(file, how):
            return file
        file.close()
        return None

    def _opened(self, to_read: bool) -> IO[bytes]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return plain_files.written(self._path)
        except OSError as error:
            if not to_read or error.errno not in READ_ONLY:
                raise
        try:
            return plain_files.opened(self._path)
        except (FileNotFoundError, PermissionError):
            # Nobody ever wrote here, and this process cannot: no lock is needed.
            return Path(os.devnull).open("rb")


def _described(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return f"process {pid}"
    command = " ".join([Path(words[0]).name, *words[1:]]).strip()
    return f"process {pid} ({command[:200]})"
