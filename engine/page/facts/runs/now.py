"""News of a run: the newest rows of a step, and the end of the log."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.jobs.receipts import COMMITTED, Receipts
from engine.page.facts.excerpts import one_line
from engine.page.facts.runs.run import StepFacts
from engine.page.sessions import Reader
from registry.errors import CorruptError
from registry.storage import ids, plain_files

_LOG_BYTES = 64 << 10
_NEWEST = 300
"""Characters of a newest row."""


@dataclass(frozen=True)
class NewRow:
    """A row of a running step on one line, with its new fields first; `output` is the output that has it."""

    output: str
    text: str


@dataclass(frozen=True)
class LogEnd:
    """The end of a log file of a run; `cut` if it has more."""

    name: str
    text: str
    cut: bool


def newest_rows(reader: Reader, step: StepFacts, count: int = 5) -> tuple[NewRow, ...]:
    """The last rows of the partition of a running step that was finished last; none while it has not finished any."""
    if step.progress is None or not ids.is_sha256(step.progress.base_key):
        return ()
    receipts = Receipts.of(reader.registry, step.progress.base_key)
    for digest in _newest(receipts.folder):
        receipt = receipts.read(digest)
        found = [
            # Steps add fields at the end.
            NewRow(output, one_line(dict(reversed(row.items())), _NEWEST))
            for output, part in (receipt.outputs.items() if receipt else ())
            if part.data
            for row in _last(reader, part.data.sha256, count)
        ]
        if found:
            return tuple(found)
    return ()


def _newest(folder: Path) -> list[str]:
    """The digests of the receipts that were written last."""
    try:
        with os.scandir(plain_files.folder(folder)) as entries:
            found = [(entry.stat().st_mtime_ns, entry.name) for entry in entries if entry.name.endswith(".json")]
    except (FileNotFoundError, CorruptError):
        return []
    return [name.removesuffix(".json") for _, name in sorted(found, reverse=True)[:5] if name != COMMITTED]


def _last(reader: Reader, sha256: str, count: int) -> list[dict[str, Any]]:
    table = reader.registry.store.read_table(sha256)
    rows: list[dict[str, Any]] = table.slice(max(0, table.num_rows - count)).to_pylist()
    return rows[::-1]


def logs(reader: Reader, run_id: str) -> list[LogEnd]:
    """The ends of the log of a run and of those of the servers that it started, as far as there are any."""
    folder, known = reader.registry.catalog.runs.folder, ids.run_id(run_id)
    found = []
    for path in sorted(folder.glob(f"{known}*.log")):
        try:
            with plain_files.opened(path) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _LOG_BYTES))
                text = file.read(_LOG_BYTES).decode(errors="replace")
        except (OSError, CorruptError):  # removed meanwhile, or not a plain file
            continue
        cut = size > _LOG_BYTES
        text = text.partition("\n")[2] if cut and "\n" in text else text
        if text.strip():
            found.append(
                LogEnd(path.name.removeprefix(f"{known}.").removesuffix(".log").removeprefix("log") or "run", text, cut)
            )
    return found
