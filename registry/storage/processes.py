"""Whether a process of this machine is running. The start time distinguishes it from a later process with the same pid."""

from __future__ import annotations

import os
from pathlib import Path


def start_time(pid: int) -> str | None:
    """When a process started, for comparison only; None when it is not running."""
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
        pass  # it belongs to another user
    return "running"
