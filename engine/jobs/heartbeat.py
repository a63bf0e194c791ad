"""The progress of each worker within its partitions: a small file beside the receipts, which needs no Ray."""

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
    """Rows done since the worker started, or `done` of `total` of the operator's own units."""

    done: int
    total: int
    note: str


class Heartbeat:
    """The file of one worker. It is only for display, so nothing depends on it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"{socket.gethostname()}-{os.getpid()}.heartbeat"
        self._done = 0
        self._note = ""
        self._last = 0.0

    def row_done(self) -> None:
        """Count a row."""
        self._done += 1
        if time.monotonic() - self._last > _EVERY_SECONDS:
            self._write(Beat(self._done, 0, self._note))

    def note(self, text: str) -> None:
        """Set the note shown beside the count."""
        if text != self._note:
            self._note = text
            self._write(Beat(self._done, 0, text))

    def show(self, done: int, total: int, note: str = "") -> None:
        """Report `done` of `total` units."""
        if time.monotonic() - self._last > _EVERY_SECONDS or done == total:
            self._write(Beat(done, total, note))

    def _write(self, beat: Beat) -> None:
        self._last = time.monotonic()
        with contextlib.suppress(OSError):  # only for display
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(json.dumps(beat))
            temporary.replace(self._file)


def read_heartbeats(folder: Path, since: float) -> Beat:
    """The sum of all workers' heartbeats; files older than `since` (a time.time()) are from an earlier run."""
    done = total = 0
    note = ""
    for file in folder.glob("*.heartbeat"):
        with contextlib.suppress(OSError, ValueError):
            if file.stat().st_mtime < since:
                continue
            beat = Beat(*json.loads(file.read_text()))
            done, total, note = done + beat.done, total + beat.total, beat.note or note
    return Beat(done, total, note)


class ProgressWatch:
    """Reports workers' heartbeats while a step runs.

    Args:
        folder: where the workers write them.
        rows: rows of the step.
        done: rows that were done before the step started.
        report: called with (done, total, note) twice a second.
    """

    def __init__(self, folder: Path, rows: int, done: int, report: Callable[[int, int, str], None]) -> None:
        self._folder, self._rows, self._done, self._report = folder, rows, done, report
        self._since = time.time()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            beat = read_heartbeats(self._folder, self._since)
            if beat.total:
                self._report(beat.done, beat.total, beat.note)
            else:
                self._report(min(self._rows, self._done + beat.done), self._rows, beat.note)
