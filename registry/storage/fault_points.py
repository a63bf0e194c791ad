"""Named points at which tests kill the process, to place a crash exactly where it would hurt.

`ENGINE_FAULT=manifest.written` kills when that point is first passed, `ENGINE_FAULT=any:17` at the 17th point passed.
"""

from __future__ import annotations

import os
import signal
from itertools import count

POINTS = (
    "run.claimed",  # a run holds its lock; it is not recorded yet
    "catalog.changed",  # in the DuckDB transaction; nothing is written
    "intent.written",  # the intent is durable; no file of record has changed
    "manifest.written",
    "journal.appended",
    "mark.written",  # a pin, or version numbers that must not be used again
    "mark.removed",
    "manifest.removed",
    "catalog.committed",
    "intent.cleared",
    "run.released",
    "rebuild.begun",
    "rebuild.filled",  # the new file is complete, and the old one still exists
    "rebuild.replaced",
    "damage.moved",
)
"""All points, roughly in the order in which a run passes them."""

_passings = count(1)


def point(name: str) -> None:
    """Pass a point of POINTS; kills this process with SIGKILL when ENGINE_FAULT says here."""
    wanted = os.environ.get("ENGINE_FAULT")
    if wanted and wanted in (name, f"any:{next(_passings)}"):
        os.kill(os.getpid(), signal.SIGKILL)
