"""A lock per step: one run at a time makes it. Others that need the same step wait, and then use its outputs."""

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
def only_one(folder: Path, run_id: str, notify: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lock of a step's folder; yields whether we had to wait for it.

    The operating system releases the lock when its holder ends, even if it crashes.

    Args:
        folder: the step's receipts.
        run_id: ours, so that others can say which run they are waiting for.
        notify: called with a message if we wait.
    """
    plain_files.only_plain(folder).mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / "lock"), folder / "holder.json"
    waited = False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waited = True
        notify(f"{_who(holder)} is making the same step; waiting for it")
        lock.acquire()
    try:
        holder.write_text(json.dumps({"run_id": run_id, "pid": os.getpid(), "host": socket.gethostname()}))
        yield waited
    finally:
        lock.release()


def _who(holder: Path) -> str:
    try:
        document = json.loads(holder.read_text())
        return f"run {document['run_id']} (process {document['pid']} on {document['host']})"
    except (OSError, ValueError, KeyError):  # it has the lock but has not written the file yet
        return "another run"
