"""One run at a time makes a step: runs that want the same step at the same time wait, and find it made."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from registry.storage import plain_files


@contextlib.contextmanager
def only_one(folder: Path, run_id: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a step's folder.

    The lock is the operating system's: it is free as soon as its holder is gone, however that came about.

    Args:
        folder: the step's receipts.
        run_id: who we are, for those who come after us.
        tell: is told whom we wait for.
    """
    plain_files.only_plain(folder).mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / "lock"), folder / "holder.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"{_who(holder)} is making the same step; waiting for it")
        lock.acquire()
    try:
        holder.write_text(json.dumps({"run_id": run_id, "pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        lock.release()


def _who(holder: Path) -> str:
    try:
        told = json.loads(holder.read_text())
        return f"run {told['run_id']} (process {told['pid']} on {told['host']})"
    except (OSError, ValueError, KeyError):  # it has the lock and has not signed yet
        return "another run"
