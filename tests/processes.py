"""kill -9 of a process and of all that it has started."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any

import psutil


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """Kill the process, then everything that it has started (Ray's head, its workers), and wait until all are gone."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=10)
