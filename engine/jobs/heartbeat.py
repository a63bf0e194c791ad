"""The progress of each worker within its partitions: a small file beside the receipts, which needs no Ray."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

from engine.spec.variant_names import split_name

_EVERY_SECONDS = 0.5

_CRASHED_SECONDS = 3600.0
"""Seconds after which a file is ignored: a worker that is alive would have written it again."""


class Beat(NamedTuple):
    """Rows done since the worker started, or `done` of `total` of the operator's own units."""

    done: int
    total: int
    note: str


def owner_of(run_id: str, step: str) -> str:
    """The owner of heartbeats, as part of a file's name."""
    variant, own = split_name(step)
    digest = hashlib.sha256(step.encode()).hexdigest()[:12]
    return f"{run_id}.{own}-{digest}" if variant else f"{run_id}.{step}"


class Heartbeat:
    """The file of one worker. It is only for display, so nothing depends on it.

    Args:
        folder: the folder of the step's receipts.
        owner: the run and the step (see `owner_of`), because others may share the folder.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._file = folder / f"{owner}.{socket.gethostname()}-{os.getpid()}.heartbeat"
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
            temporary = self._file.with_suffix(".heartbeat.tmp")
            temporary.write_text(json.dumps(beat))
            temporary.replace(self._file)


def read_heartbeats(folder: Path, owner: str) -> Beat:
    """The sum of the heartbeats of a step's workers."""
    done = total = 0
    note = ""
    for file in folder.glob(f"{owner}.*.heartbeat"):
        with contextlib.suppress(OSError, ValueError):
            beat = Beat(*json.loads(file.read_text()))
            done, total, note = done + beat.done, total + beat.total, beat.note or note
    return Beat(done, total, note)


def forget_heartbeats(folder: Path, owner: str) -> None:
    """Remove the files of a step that has ended, and those that crashed runs have left."""
    crashed = time.time() - _CRASHED_SECONDS
    for file in (*folder.glob("*.heartbeat"), *folder.glob("*.heartbeat.tmp")):
        # Its worker may have just renamed it. In a folder that cannot be written, it is left for a later run.
        with contextlib.suppress(OSError):
            if file.name.startswith(f"{owner}.") or file.stat().st_mtime < crashed:
                file.unlink()
