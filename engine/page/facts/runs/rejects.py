"""Why rows of a run were rejected: rows that its steps read, and records of the files that its sources read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat

from engine.causes import cause_of
from engine.page.facts.excerpts import one_line
from engine.page.facts.runs.run import Part, RunFacts, StepFacts
from engine.page.sessions import Reader
from registry import Manifest
from registry.errors import CorruptError, RegistryError
from registry.lineage.targets import Version

_REASONS, _EXAMPLES = 20, 3
_REASON = 500
"""Characters of a reason."""


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
    """The rejects of a step or of a source.

    Args:
        step: its name.
        reasons: the most frequent ones.
        others: how many further reasons there are.
        unreadable: why they cannot be shown; empty if they can.
    """

    step: str
    rejected: int
    reasons: tuple[Reason, ...] = ()
    others: int = 0
    unreadable: str = ""


def rejects(reader: Reader, run: RunFacts) -> list[Rejects]:
    """The rejects of the sources that the run read, and of its steps, also of parts of rows."""
    return [*_of_sources(reader, run), *(found for step in run.steps if (found := _of_step(reader, run, step)))]


def _of_sources(reader: Reader, run: RunFacts) -> Iterator[Rejects]:
    made = {part.name for step in run.steps for part in step.outputs}
    for part in dict.fromkeys(part for step in run.steps for part in step.inputs):
        if part.name not in made and part.version is not None and not part.removed:
            title = part.name.partition("/")[2] or part.name
            found = _of_version(reader, title, part)
            # It was made from a file, unless another pipeline made it; then the run of that pipeline lists it.
            if found and found.is_source:
                yield found.rejects


def _of_step(reader: Reader, run: RunFacts, step: StepFacts) -> Rejects | None:
    first = next(iter(step.outputs), None)
    if first is not None and first.version is not None and not first.removed:
        found = _of_version(reader, step.name, first)
        return replace(found.rejects, rejected=step.rejected) if found else None
    if not step.rejected:
        return None
    if step.is_open:
        return Rejects(step.name, step.rejected, unreadable="they are listed when the step ends")
    if reasons := _recorded(reader, run.run_id, step.name):
        return Rejects(step.name, step.rejected, reasons)
    return Rejects(step.name, step.rejected, unreadable="they are stored with the step's output, which does not exist")


def _recorded(reader: Reader, run_id: str, step: str) -> tuple[Reason, ...]:
    """The reasons that the record of a failed step has, with rows as far as it has them."""
    try:
        records = [event.step for event in reader.registry.catalog.runs.read(run_id) if event.step]
    except (CorruptError, OSError):
        return ()
    found = next((each for each in records if each.full_step == step), None)
    if found is None:
        return ()
    return tuple(
        Reason(reason[:_REASON], count, tuple(_example(reader, Version(name, version), row) for name, version, row in places))
        for (reason, count), places in zip(found.reject_reasons, found.reject_rows or repeat(()), strict=False)
    )


@dataclass(frozen=True)
class _Found:
    rejects: Rejects
    is_source: bool


def _of_version(reader: Reader, title: str, part: Part) -> _Found | None:
    """The rejects that a version has; they never change, so they are kept."""
    try:
        manifest = reader.session.manifest(part.name, part.version or 0)
        if not any(each.kind == "rejects" for each in manifest.side):
            return None
        key = ("rejects", manifest.version_id, reader.session.state)
        found: Rejects = reader.kept.facts.get(key, lambda: _counted(reader, title, manifest))
        return _Found(replace(found, step=title), manifest.op == "source")
    except (RegistryError, OSError) as error:
        return _Found(Rejects(title, 0, unreadable=str(error)), is_source=True)


def _counted(reader: Reader, title: str, manifest: Manifest) -> Rejects:
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for side in (each for each in manifest.side if each.kind == "rejects"):
        table = reader.registry.store.read_table(side.sha256)
        for number, row, reason in zip(*(table[name].to_pylist() for name in ("input", "parent_row", "reason")), strict=True):
            cause = cause_of(reason)
            counts[cause] += 1
            first.setdefault(cause, reason)
            if len(places[cause]) < _EXAMPLES:
                places[cause].append((number, row))
    shown = [
        Reason(first[cause][:_REASON], count, tuple(_examples(reader, places[cause], manifest)))
        for cause, count in counts.most_common(_REASONS)
    ]
    return Rejects(title, counts.total(), tuple(shown), max(0, len(counts) - _REASONS))


def _examples(reader: Reader, places: list[tuple[int, int]], manifest: Manifest) -> Iterator[Example]:
    for number, row in places:
        if not 0 <= number < len(manifest.inputs):  # of a file, which has no rows here
            continue
        ref = manifest.inputs[number]
        yield _example(reader, Version(ref.name, ref.version), row)


def _example(reader: Reader, version: Version, row: int) -> Example:
    try:
        record = reader.session.records_at(version, [row]).get(row, {})
    except (RegistryError, OSError):  # its version, or an object of it, has been removed
        record = {}
    return Example(version.name, version.number, row, one_line(record))
