"""Runs a command, and ends it with all its descendants when the process that started this one closes the pipe, or dies.

This file is a separate program, run by its path: `python -I guard.py COMMAND...`. Its standard input is a pipe whose other end
only the parent holds. The operating system closes the pipe however the parent ends, even by kill -9. The program exits with the
status of the command (128 + signal, if a signal ended the command).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 10.0
"""How long the command may take to end by itself before it is killed."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_SECONDS = 0.1
_THREADS = 15
"""The place of the number of threads in /proc/PID/stat, after the parent."""


def main() -> int:
    """Run the command in `sys.argv`; see the module."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Descendants whose parents end become children of this process, so that none is lost.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def end_with_guard() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, frame: stopping.append(got))
    command = subprocess.Popen(  # noqa: S603
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_guard,  # noqa: PLW1509  (there is one thread)
    )
    try:
        while command.poll() is None and not stopping and not _is_closed(0, _LOOK_SECONDS):
            _reap(command.pid)
    finally:
        status = command.poll()
        _end_all(command)
    final = command.returncode if status is None else status
    return 128 - final if final < 0 else final


def _is_closed(pipe: int, seconds: float) -> bool:
    """Wait a while; whether the other end of a pipe was closed meanwhile."""
    ready, _, _ = select.select([pipe], [], [], seconds)
    return bool(ready) and os.read(pipe, 1) == b""


def _end_all(command: subprocess.Popen[bytes]) -> None:
    """Ask all descendants to end, and kill those that have not ended in time. Returns when none is left."""
    until = time.monotonic() + GRACE_SECONDS
    asked: set[int] = set()
    # The command can be dead, and its last threads not: then it has no status yet.
    while (living := _descendants()) or command.poll() is None:
        number = signal.SIGTERM if time.monotonic() < until else signal.SIGKILL
        for pid in living:
            if number == signal.SIGKILL or pid not in asked:
                asked.add(pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        command.poll()
        _reap(command.pid)
        time.sleep(0.02)
    command.poll()
    _reap(command.pid)


def _descendants() -> list[int]:
    """The ids of all living descendants of this process."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    # After the name in parentheses, which may contain anything: the state, the parent, ..., the threads.
                    state, parent, *more = file.read().rpartition(b")")[2].split()
                # One whose first thread has ended is a zombie while others continue.
                if state not in (b"Z", b"X") or int(more[_THREADS]) > 1:
                    parents[int(name)] = int(parent)
    found: list[int] = []
    above = {os.getpid()}
    while above:
        above = {pid for pid, parent in parents.items() if parent in above}
        found += above
    return found


def _reap(own: int) -> None:
    """Collect the ended descendants that this process has adopted; not the command, whose status is still wanted."""
    for name in _children():
        if name != own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(name, os.WNOHANG)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel without this file; ended descendants stay until this process ends
        return []


if __name__ == "__main__":
    sys.exit(main())
