"""Handles Ctrl-C. Requests in flight are paid for, so a run waits for their answers; a second Ctrl-C stops it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from registry.storage.files import durable_write

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupted_at_once() -> Iterator[None]:
    """Let Ctrl-C within the block end the process at once with exit code 130: DuckDB may not respond for seconds.

    Only for work that writes nothing. Outside the main thread, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        while number := os.read(reading, 1):
            if number[0] in _SIGNALS:
                sys.stderr.write("interrupted; nothing was changed\n")
                sys.stderr.flush()
                os._exit(130)

    thread = threading.Thread(target=watch, daemon=True)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # The thread ends the process as soon as a signal arrives; Python's own handlers must not run first.
    handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writing)
        thread.join()
        os.close(reading)


@contextlib.contextmanager
def calls_end_first(mark: Path, notify: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a stop mark for the workers; yields a function that says whether it came.

    The second one raises KeyboardInterrupt. Outside the main thread, this does nothing.
    """
    asked = False

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        durable_write(mark, b"")
        notify("stopping: no new requests; waiting for those in flight (press Ctrl-C again to stop at once)")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
