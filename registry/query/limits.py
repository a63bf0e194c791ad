"""What a query may use: time, and memory of this process."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOM = 1 << 30
"""Bytes that Python and Arrow need beside a query."""

PATIENCE = 2.0
"""Seconds that interrupted work has to stop by itself: some functions look up only when they are done."""


class Deadline:
    """Interrupts work that takes too long. Only time within `running()` counts, not what is done with its results.

    Args:
        seconds: how long; None, or more than a timer can count, for as long as it takes.
        interrupt: asks the work to stop, from another thread; called again until it does.
        last_resort: called when it does not.
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
        """The clock ticks during the block."""
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
            # Once is not enough: an interrupt that comes between two queries is forgotten.
            self._interrupt()
            wait = 0.1


def limit_memory(size: int) -> None:
    """Let this process grow by `size` bytes and ROOM, no further: allocations fail then. Linux only, elsewhere nothing.

    DuckDB's own limit does not hold for the values that one function call makes: `repeat('x', 3000000000)`.
    """
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    used = int(statm.read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = min(used + size + ROOM, sys.maxsize)
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
