"""What the steps of a run are doing now: a small file beside the run's journal, which others can read while the run lasts."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from engine.jobs.messages import Message, Usage
from registry import CorruptError
from registry.storage import ids, plain_files

_SUFFIX = ".live.json"
_CRASHED_SECONDS = 3600.0
"""Seconds after which a file is ignored, as left by a crashed run: an active run would have written it again."""


class LiveStep(Message):
    """A step that waits or runs. One that has ended is in the run's journal.

    Args:
        step: the name of the step, with its variant.
        base_key: the receipts of its finished partitions lie under it; empty while it waits.
        rows: the number of rows of its input so far; more may come while the steps before it run.
        done, total: rows, or the operator's own units.
        rejected: the number of rejected rows.
        usage: the calls of its finished partitions.
        note: what the step is waiting for while it runs; empty if for nothing.
        waited_for: what it waits for, or last waited for; see StepRun.
        why: see StepRun; empty while it is not known.
    """

    step: str
    op: str
    state: Literal["waiting", "running"]
    base_key: str = ""
    rows: int = 0
    done: int = 0
    total: int = 0
    rejected: int = 0
    usage: Usage = Usage()
    note: str = ""
    waited_for: str = ""
    started_at: dt.datetime | None = None
    why: tuple[str, ...] = ()


class Live(Message):
    """The steps of a run that have not ended, at some time."""

    at: dt.datetime
    steps: tuple[LiveStep, ...]


def write_live(folder: Path, run_id: str, steps: tuple[LiveStep, ...]) -> None:
    """Write what the steps of a run are doing.

    Args:
        folder: the folder of the runs' journals.
    """
    file = _file(folder, run_id)
    with contextlib.suppress(OSError):  # only for display
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text(Live(at=dt.datetime.now(dt.UTC), steps=steps).model_dump_json())
        temporary.replace(file)


def read_live(folder: Path, run_id: str) -> Live | None:
    """What the steps of a run were doing when it wrote last; None if it has ended, or has not written yet."""
    try:
        return Live.model_validate_json(plain_files.read(_file(folder, run_id)))
    except (OSError, CorruptError, ValidationError):
        return None


def forget_live(folder: Path, run_id: str) -> None:
    """Remove the file of a run that has ended, and those that crashed runs have left."""
    crashed = time.time() - _CRASHED_SECONDS
    own = _file(folder, run_id)
    with contextlib.suppress(OSError):  # only for display
        for file in folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another run has just removed it
                if file == own or os.lstat(file).st_mtime < crashed:
                    file.unlink()


def _file(folder: Path, run_id: str) -> Path:
    return folder / f"{ids.run_id(run_id)}{_SUFFIX}"
