"""Limits of a query: time, and memory of this process."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOM = 1 << 30
"""Bytes that Python and Arrow need in addition to a query."""

PATIENCE = 2.0
"""Seconds that interrupted work has to stop by itself: some functions check for interrupts only when they are done."""


class Deadline:
    """Interrupts work that takes too long. Only time within `running()` counts.

    Args:
        seconds: the limit; None, or more than a timer can count, means no limit.
        interrupt: asks the work to stop; called from another thread, again and again until the work stops.
        last_resort: called when the work does not stop.
    """

    def __init__(
        self, seconds: float | None, interrupt: Callable[[], None], last_resort: Callable[[], None] | None = None
    ) -> None:
        self.seconds = seconds
        self._left = seconds if seconds is not None and seconds < threading.TIMEOUT_MAX else None
        self._interrupt = interrupt
        self._last_resort = last_resort

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block."""
        if self._left is None:
            yield
            return
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done, max(0.0, self._left)), daemon=True)
        started = time.monotonic()
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()
            self._left -= time.monotonic() - started

    def _watch(self, done: threading.Event, wait: float) -> None:
        until = time.monotonic() + wait + PATIENCE
        while not done.wait(wait):
            if self._last_resort and time.monotonic() > until:
                self._last_resort()
            # Once is not enough: DuckDB forgets an interrupt that arrives between two queries.
            self._interrupt()
            wait = 0.1


def limit_memory(size: int) -> None:
    """Let this process grow by at most `size` bytes and ROOM; further allocations fail. Linux only; no effect elsewhere.

    DuckDB's own limit does not cover the values that one function call creates: `repeat('x', 3000000000)`.
    """
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    used = int(statm.read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = min(used + size + ROOM, sys.maxsize)
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
