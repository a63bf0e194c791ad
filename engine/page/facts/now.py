"""What is new of a run: the newest rows of a step, why rows were rejected, and the end of the log."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.jobs.receipts import COMMITTED, Receipts
from engine.page.facts.excerpts import one_line
from engine.page.facts.run import RunFacts, StepFacts
from engine.page.sessions import Reader
from registry import SideObject
from registry.errors import CorruptError, RegistryError
from registry.lineage.walk import Version
from registry.storage import ids, plain_files

_LOG_BYTES = 64 << 10
_NEWEST = 300
"""Characters of a newest row."""
_REASONS, _EXAMPLES = 20, 3
_REASON = 500
"""Characters of a reason."""


@dataclass(frozen=True)
class NewRow:
    """A row of a step that runs, on one line, what is new of it first; `output` names which of its outputs has it."""

    output: str
    text: str


@dataclass(frozen=True)
class Example:
    """A row that was rejected: its place, and its fields on one line (empty if it cannot be read any more)."""

    name: str
    version: int
    row: int
    text: str


@dataclass(frozen=True)
class Reason:
    """A reason for rejects of a step, how often it was given, and some of the rows."""

    text: str
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Rejects:
    """The rejects of a step.

    Args:
        reasons: the most frequent ones.
        others: how many further reasons there are.
        unreadable: why they cannot be shown; empty if they can.
    """

    step: str
    rejected: int
    reasons: tuple[Reason, ...] = ()
    others: int = 0
    unreadable: str = ""


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


def rejects(reader: Reader, run: RunFacts) -> list[Rejects]:
    """Why rows of the run's steps were rejected, also in part; with examples."""
    found = []
    for step in run.steps:
        first = next(iter(step.outputs), None)
        if first is None or first.version is None or first.removed:
            if step.rejected:
                why = (
                    "its rejects are with its output, which does not exist"
                    if not step.is_open
                    else "they are listed when it ends"
                )
                found.append(Rejects(step.name, step.rejected, unreadable=why))
            continue
        try:
            manifest = reader.session.manifest(first.name, first.version)
            sides = [each for each in manifest.side if each.kind == "rejects"]
            if sides:
                found.append(_counted(reader, step, sides, manifest.inputs))
        except (RegistryError, OSError) as error:
            found.append(Rejects(step.name, step.rejected, unreadable=str(error)))
    return found


def _counted(reader: Reader, step: StepFacts, sides: list[SideObject], inputs: Any) -> Rejects:
    counts: Counter[str] = Counter()
    places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for side in sides:
        table = reader.registry.store.read_table(side.sha256)
        for number, row, reason in zip(*(table[name].to_pylist() for name in ("input", "parent_row", "reason")), strict=True):
            counts[reason] += 1
            if len(places[reason]) < _EXAMPLES:
                places[reason].append((number, row))
    shown = [
        Reason(reason[:_REASON], count, tuple(_examples(reader, places[reason], inputs)))
        for reason, count in counts.most_common(_REASONS)
    ]
    return Rejects(step.name, step.rejected, tuple(shown), max(0, len(counts) - _REASONS))


def _examples(reader: Reader, places: list[tuple[int, int]], inputs: Any) -> Iterator[Example]:
    for number, row in places:
        if not 0 <= number < len(inputs):
            continue
        ref = inputs[number]
        try:
            record = reader.session.records_at(Version(ref.name, ref.version), [row]).get(row, {})
        except (RegistryError, OSError, FileNotFoundError):  # its version, or an object of it, has been removed
            record = {}
        yield Example(ref.name, ref.version, row, one_line(record))


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
