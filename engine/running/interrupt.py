"""Handles Ctrl-C. Requests in flight are paid for, so a run waits for their answers; a second Ctrl-C stops it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

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


class Interruption:
    """Handles Ctrl-C (and SIGTERM) in a block: `came` is true once the user has asked to stop and waits for the run to end.

    The first Ctrl-C only sets `came` if answers that are paid for are on their way. Otherwise, and the second time, it raises
    KeyboardInterrupt. Outside the main thread, this does nothing.

    Args:
        notify: called with a message.
        are_paid_for: tells whether answers that are paid for are on their way.
    """

    def __init__(self, notify: Callable[[str], None], are_paid_for: Callable[[], bool]) -> None:
        self.came = False
        self._notify = notify
        self._are_paid_for = are_paid_for
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # A handler that was not set by Python, such as one of an embedding program, cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.came or not self._are_paid_for():
            raise KeyboardInterrupt
        self.came = True
        self._notify("stopping: no new requests; waiting for those in flight (press Ctrl-C again to stop at once)")
