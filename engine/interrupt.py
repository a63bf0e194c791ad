"""Ctrl-C while models are called: what was sent is paid for, so its answers are waited for; a second Ctrl-C stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from registry.store import durable_write

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def calls_end_first(mark: Path, tell: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a stop mark for the workers; the block gets a function that says whether.

    The second one raises KeyboardInterrupt. Outside the main thread, signals are left alone.
    """
    asked = False

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        durable_write(mark, b"")
        tell("stopping: no further request is sent; waiting for those that are under way (Ctrl-C again: at once)")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
