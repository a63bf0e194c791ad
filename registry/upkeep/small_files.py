"""Checks the small files: manifests, run journals, pins, numbers of removed versions, and reviews."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from registry.catalog.manifest import Event, Frozen, Manifest
from registry.catalog.markers import Marks
from registry.catalog.rows import TableRows, mark_rows, table_rows
from registry.errors import CorruptError
from registry.registry import Registry
from registry.storage.files import Files
from registry.upkeep.findings import CheckResult, FileCount, Finding, reason_of

M = TypeVar("M", bound=Frozen)


class IntactFiles(NamedTuple):
    """The contents of the undamaged files.

    Args:
        unread: ids of versions whose manifest is damaged, and how.
        whole: whether all files are undamaged.
    """

    manifests: Sequence[Manifest]
    unread: Mapping[str, str]
    runs: Sequence[Sequence[Event]]
    marks: TableRows
    whole: bool

    @property
    def rows(self) -> TableRows:
        """The rows that the catalog should have."""
        return table_rows(self.manifests, self.runs, self.marks)


def read_files(registry: Registry) -> tuple[IntactFiles, CheckResult]:
    manifests, unread, report = _manifests(registry)
    runs, left_out, of_runs = _runs(registry)
    record = registry.catalog.files
    pins, of_pins = _marks(record.pins, "pins", "delete the file and pin the version again")
    numbers, of_numbers = _marks(
        record.numbers,
        "numbers",
        "delete the file and rebuild the catalog: numbers of removed versions may then be used again",
        remedy="rebuild",
    )
    report += of_runs + of_pins + of_numbers
    files = IntactFiles(manifests, unread, runs, mark_rows(pins, numbers), whole=not (report.errors or unread))
    return files, report + CheckResult({}, tuple(left_out))


def _manifests(registry: Registry) -> tuple[list[Manifest], dict[str, str], CheckResult]:
    found: dict[str, Manifest] = {}
    unread: dict[str, str] = {}
    files = _documents(registry.manifests)
    for name in files:
        try:
            found[Path(name).stem] = registry.catalog.manifest(Path(name).stem)
        except (CorruptError, OSError) as error:
            unread[Path(name).stem] = reason_of(error, name)
    findings = []
    numbers: defaultdict[str, list[str]] = defaultdict(list)
    for version_id, manifest in found.items():
        numbers[str(manifest.ref)].append(version_id)
    for ref, ids in numbers.items():
        if len(ids) > 1:
            what = f"contains {len(ids)} files that claim to be {ref}: {', '.join(sorted(ids))}"
            findings.append(Finding("error", "manifests", what, "delete those that do not belong there", (ref,)))
    return list(found.values()), unread, CheckResult({"manifests": FileCount.of(files.values())}, tuple(findings))


def _runs(registry: Registry) -> tuple[list[list[Event]], list[Finding], CheckResult]:
    """The journals' events, findings about lines that are left out, and the rest of the result."""
    advice = (
        "no version is affected, and the catalog still knows the run until it is rebuilt. Move the file away before you "
        "rebuild the catalog; that forgets the run and the latest versions that it set"
    )
    log = registry.catalog.runs
    found: list[list[Event]] = []
    left_out, findings, sizes = [], [], []
    for run_id in log.run_ids():
        where = f"runs/{run_id}.ndjson"
        try:
            events, unfit = log.scan(run_id)
            sizes.append(log.path(run_id).stat().st_size)
        except (CorruptError, OSError) as error:
            findings.append(Finding("error", where, reason_of(error, where), advice, remedy="rebuild"))
            continue
        found.append(events)
        for line in unfit:
            what = f"line {line.line} {line.reason}"
            left_out.append(
                Finding("error", where, what, "no version is affected: the line is missing from `runs` and `step_runs`")
            )
    return found, left_out, CheckResult({"run journals": FileCount.of(sizes)}, tuple(findings))


def _marks(marks: Marks[M], kind: str, advice: str, remedy: Literal["rebuild"] | None = None) -> tuple[list[M], CheckResult]:
    found, findings, sizes = [], [], []
    for path in marks.files():
        try:
            found.append(marks.read_one(path))
            sizes.append(path.stat().st_size)
        except (CorruptError, OSError) as error:
            where = f"{path.parent.name}/{path.name}"
            findings.append(Finding("error", where, reason_of(error, where), advice, remedy=remedy))
    return found, CheckResult({kind: FileCount.of(sizes)} if sizes else {}, tuple(findings))


def check_reviews(registry: Registry) -> CheckResult:
    """Check the files of reviews: what was decided, and what is asked."""
    store = registry.reviews
    findings: list[Finding] = []

    def check(name: str, read: Callable[[str], object], advice: str) -> None:
        try:
            read(name)
        except (CorruptError, OSError) as error:
            findings.append(Finding("error", f"reviews/{name}", reason_of(error, name), advice))

    for name in store.files():
        check(name, store.read, "restore the file from a backup; or delete it, and its rows are asked for again")
    for name in store.queue_files():
        check(name, store.read_queue, "delete it: the next run of the pipeline writes it again")
    sizes = store.sizes()
    return CheckResult({"reviews": FileCount.of(sizes)} if sizes else {}, tuple(findings))


def _documents(files: Files) -> dict[str, int]:
    """The JSON files of a folder with their sizes."""
    return {entry.name: entry.bytes for entry in sorted(files.listing(strict=False)) if entry.name.endswith(".json")}
