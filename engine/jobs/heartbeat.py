"""How far a worker is, in a small file beside the receipts: progress within partitions, on any node, without Ray."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_EVERY_SECONDS = 0.5


class Beat(NamedTuple):
    """Rows done since the worker started, or `done` of `total` of an operator's own units."""

    done: int
    total: int
    note: str


class Heartbeat:
    """Written by one worker; losing it loses nothing."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"{socket.gethostname()}-{os.getpid()}.pulse"
        self._done = 0
        self._note = ""
        self._last = 0.0

    def beat(self) -> None:
        """One more row is done."""
        self._done += 1
        if time.monotonic() - self._last > _EVERY_SECONDS:
            self._write(Beat(self._done, 0, self._note))

    def say(self, note: str) -> None:
        """What there is to say besides."""
        if note != self._note:
            self._note = note
            self._write(Beat(self._done, 0, note))

    def show(self, done: int, total: int, note: str = "") -> None:
        """So many units are done."""
        if time.monotonic() - self._last > _EVERY_SECONDS or done == total:
            self._write(Beat(done, total, note))

    def _write(self, beat: Beat) -> None:
        self._last = time.monotonic()
        with contextlib.suppress(OSError):  # only a display is at stake
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(json.dumps(beat))
            temporary.replace(self._file)


def read_pulse(folder: Path, since: float) -> Beat:
    """All workers' beats together; files older than `since` (a time.time()) are of an earlier run."""
    done = total = 0
    note = ""
    for file in folder.glob("*.pulse"):
        with contextlib.suppress(OSError, ValueError):
            if file.stat().st_mtime < since:
                continue
            beat = Beat(*json.loads(file.read_text()))
            done, total, note = done + beat.done, total + beat.total, beat.note or note
    return Beat(done, total, note)


class Ticker:
    """Passes workers' pulses on while a step runs.

    Args:
        folder: where workers leave their pulses.
        rows: rows of the step.
        done: rows that were done before.
        tell: is told (done, total, note), twice a second.
    """

    def __init__(self, folder: Path, rows: int, done: int, tell: Callable[[int, int, str], None]) -> None:
        self._folder, self._rows, self._done, self._tell = folder, rows, done, tell
        self._since = time.time()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            beat = read_pulse(self._folder, self._since)
            if beat.total:
                self._tell(beat.done, beat.total, beat.note)
            else:
                self._tell(min(self._rows, self._done + beat.done), self._rows, beat.note)
