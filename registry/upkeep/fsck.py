"""Checks that a registry contains what was written to it; reports damage, the versions it affects, and what to do.

Only reads: damaged files stay where they are. Rows are checked in registry.upkeep.row_proof.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import duckdb

from registry.catalog.database import Database
from registry.catalog.manifest import DataObject, Event, Frozen, Manifest, SideObject, VersionRef
from registry.catalog.markers import Marks
from registry.catalog.rows import TABLES, TableRows, insert, mark_rows, table_rows
from registry.catalog.sql_files import sql
from registry.catalog.write_ahead import IntentFile
from registry.counted import counted
from registry.errors import CorruptError, DamagedError, StaleError, UnfitError
from registry.registry import Registry
from registry.storage import plain_files
from registry.storage.files import Files
from registry.storage.lock import RegistryLock
from registry.storage.objects import Listed, ObjectStore
from registry.upkeep.crash_files import crash_files
from registry.upkeep.findings import CheckResult, FileCount, Finding

__all__ = ["CheckResult", "FileCount", "Finding", "Need", "fsck"]

M = TypeVar("M", bound=Frozen)


def fsck(registry: Registry, *, deep: bool = False, named: Collection[str] = ()) -> CheckResult:
    """Check manifests, run journals, pins, objects and the catalog.

    Commits wait while the small files are read and compared with the catalog. While objects are read, commits continue; only
    garbage collection waits.

    Args:
        deep: read every byte of every object, and compare rows with content ids. Otherwise, check presence and size.
        named: objects that something other than versions needs.

    Raises:
        LockedError: another process has held the registry's lock for too long.
    """
    with registry.catalog.reading():
        with RegistryLock(registry.root).held(to_read=True):
            files, report = _read_files(registry)
            report += _catalog(registry, files)
        lost = any(finding.what in (_MISSING, _LACKS_ONE) for finding in report.errors)
        known = not (files.unread or lost)
        report += _objects(registry.store, files.manifests, frozenset(named), deep=deep, all_known=known)
        return report + _reviews(registry) + _foreign_files(registry.root) + _crash_files(registry.root)


# -- the small files --------------------------------------------------------------------------------------------------


class _Intact(NamedTuple):
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


def _read_files(registry: Registry) -> tuple[_Intact, CheckResult]:
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
    files = _Intact(manifests, unread, runs, mark_rows(pins, numbers), whole=not (report.errors or unread))
    return files, report + CheckResult({}, tuple(left_out))


def _manifests(registry: Registry) -> tuple[list[Manifest], dict[str, str], CheckResult]:
    found: dict[str, Manifest] = {}
    unread: dict[str, str] = {}
    files = _documents(registry.manifests)
    for name in files:
        try:
            found[Path(name).stem] = registry.catalog.manifest(Path(name).stem)
        except (CorruptError, OSError) as error:
            unread[Path(name).stem] = _reason(error, name)
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
            findings.append(Finding("error", where, _reason(error, where), advice, remedy="rebuild"))
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
            findings.append(Finding("error", where, _reason(error, where), advice, remedy=remedy))
    return found, CheckResult({kind: FileCount.of(sizes)} if sizes else {}, tuple(findings))


def _reviews(registry: Registry) -> CheckResult:
    """Check the files of reviews: what was decided, and what is asked."""
    store = registry.reviews
    findings: list[Finding] = []

    def check(name: str, read: Callable[[str], object], advice: str) -> None:
        try:
            read(name)
        except (CorruptError, OSError) as error:
            findings.append(Finding("error", f"reviews/{name}", _reason(error, name), advice))

    for name in store.files():
        check(name, store.read, "restore the file from a backup; or delete it, and its rows are asked for again")
    for name in store.queue_files():
        check(name, store.read_queue, "delete it: the next run of the pipeline writes it again")
    sizes = store.sizes()
    return CheckResult({"reviews": FileCount.of(sizes)} if sizes else {}, tuple(findings))


def _documents(files: Files) -> dict[str, int]:
    """The JSON files of a folder with their sizes."""
    return {entry.name: entry.bytes for entry in sorted(files.listing(strict=False)) if entry.name.endswith(".json")}


def _reason(error: Exception, where: str) -> str:
    """What an error says about the file `where`."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    text = str(error).rpartition(where)[2].lstrip(", ") or str(error)
    return re.sub(r"^(line \d+), is damaged", r"is damaged in \1", text)


# -- the catalog ------------------------------------------------------------------------------------------------------

_MISSING = "is missing"
_LACKS_ONE = "lacks the manifest of a version"
_ONLY_COPY = "restore the file from a backup. Only the catalog still knows about it, and rebuilding the catalog would forget it"
_LATER = "nothing is lost: the next command repairs it"


def _catalog(registry: Registry, files: _Intact) -> CheckResult:
    """Check that the DuckDB file can be read and agrees with the other files. It names the versions of damaged manifests."""
    file = registry.catalog.file
    opened = _opened(registry, files)
    if isinstance(opened, Finding):
        return CheckResult({}, (*_unread(files, {}), *_lost(files, {}), opened))
    checked = {"catalog": FileCount.of([file.stat().st_size])}
    with opened as tables:
        names = dict(tables.execute("select version_id, name || '@' || version from internal.versions").fetchall())
        runs = [run_id for (run_id,) in tables.execute("select run_id from internal.runs order by run_id").fetchall()]
        lost = [*_lost(files, names), *_lost_runs(registry, runs)]
        if lost or not files.whole:
            what = f"was not compared with the other files, because some of them are {'missing' if lost else 'damaged'}"
            note = Finding("note", file.name, what, "repair those and check again")
            return CheckResult(checked, (*_unread(files, names), *lost, note))
        tables.execute("create schema expected")
        tables.execute("use memory.expected")
        tables.execute(sql("tables.sql"))
        try:
            insert(tables, files.rows)
        except UnfitError as error:
            what = f"cannot be rebuilt from the other files: {error}"
            return CheckResult(checked, (Finding("error", file.name, what, "report it: this is a bug"),))
        tables.execute("use memory.main")
        return CheckResult(checked, tuple(_differences(file.name, tables)))


def _opened(registry: Registry, files: _Intact) -> duckdb.DuckDBPyConnection | Finding:
    """A copy of the tables, or the reason why there is none."""
    file = registry.catalog.file
    try:
        begun = IntentFile(registry.root / "registry.intent").read()
    except CorruptError as error:
        return Finding("error", "registry.intent", _reason(error, "registry.intent"), "delete it")
    if begun:
        return Finding("note", "registry.intent", "contains a change that was not finished", _LATER)
    try:
        return Database(file).copy()
    except DamagedError as error:
        moved = "nothing is lost: the next command moves it aside and rebuilds it from the other files"
        advice = moved if files.whole else "repair the other files first: it is rebuilt from them"
        return Finding("error", file.name, f"is damaged: {error}", advice)
    except StaleError as error:
        return Finding("note", file.name, f"must be rebuilt: {error}", _LATER)


def _unread(files: _Intact, names: Mapping[str, str]) -> Iterator[Finding]:
    advice = "delete the file, rebuild the catalog, and run the pipeline that made the version: its calls are not repeated"
    for version_id, what in files.unread.items():
        damaged = (names[version_id],) if version_id in names else ()
        yield Finding("error", f"manifests/{version_id}.json", what, advice, damaged, remedy="rebuild")


def _lost(files: _Intact, names: Mapping[str, str]) -> Iterator[Finding]:
    """Missing manifests: the catalog has their version, or another version was made from it, or a run made it the latest.

    Args:
        names: the catalog's version ids, each with its `NAME@V`.
    """
    there = {manifest.version_id for manifest in files.manifests} | files.unread.keys()
    for version_id in sorted(names.keys() - there):
        yield Finding("error", f"manifests/{version_id}.json", _MISSING, _ONLY_COPY, (names[version_id],))
    if not files.whole:
        return  # it may be one of the damaged files
    known = {str(manifest.ref) for manifest in files.manifests} | set(names.values())
    known |= {f"{number['name']}@{number['version']}" for number in files.marks["numbers"]}
    needed = {str(ref): f"{manifest.ref} was made from it" for manifest in files.manifests for ref in _made_from(manifest)}
    for row in files.rows["refs"]:
        needed.setdefault(f"{row['name']}@{row['version']}", f"run {row['run_id']} made it the latest")
    for ref in sorted(needed.keys() - known):
        advice = f"{needed[ref]}. Restore the file from a backup, or run the pipeline that made it again"
        yield Finding("error", "manifests", _LACKS_ONE, advice, (ref,))


def _lost_runs(registry: Registry, runs: Iterable[str]) -> Iterator[Finding]:
    """Missing journals of runs that the catalog has."""
    for run_id in sorted(set(runs) - set(registry.catalog.runs.run_ids())):
        yield Finding("error", f"runs/{run_id}.ndjson", _MISSING, _ONLY_COPY)


def _made_from(manifest: Manifest) -> tuple[VersionRef, ...]:
    return (*manifest.inputs, *manifest.models)


def _differences(file: str, tables: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    for table in TABLES:
        query = "select count(*) from (from {0}.{2} except all from {1}.{2})"
        [(more,)] = tables.execute(query.format("internal", "expected", table)).fetchall()
        [(fewer,)] = tables.execute(query.format("expected", "internal", table)).fetchall()
        if more or fewer:
            what = f"table {table} has {counted(more, 'row')} too many and {fewer:,} too few, compared with the other files"
            yield Finding("error", file, what, "rebuild the catalog from the other files", remedy="rebuild")


# -- objects ----------------------------------------------------------------------------------------------------------


class Need(NamedTuple):
    """A version that needs an object, its use, and how it should be."""

    manifest: Manifest
    what: str
    part: DataObject | SideObject


def _objects(
    store: ObjectStore, manifests: Sequence[Manifest], named: frozenset[str], *, deep: bool, all_known: bool
) -> CheckResult:
    """Check the objects. Unneeded ones are reported only if all manifests are known."""
    listed = list(store.listing(strict=False))
    there = {each.sha256: each for each in listed if each.sha256}
    needs: defaultdict[str, list[Need]] = defaultdict(list)
    for manifest in manifests:
        for need in _needs(manifest):
            needs[need.part.sha256].append(need)
    bad = dict(_missing(needs, there))
    if deep:
        bad |= _damaged(store, [each for sha256, each in there.items() if sha256 not in bad])
    findings = [_of_object(sha256, what, needs.get(sha256, ()), sha256 in named) for sha256, what in bad.items()]
    if deep:
        from registry.upkeep.row_proof import disproof  # brings pandas

        known = {(manifest.name, manifest.version): manifest.rows for manifest in manifests}
        for manifest in manifests:
            if not any(need.part.sha256 in bad for need in _needs(manifest)):
                findings += [_of_version(manifest, what) for what in disproof(store, manifest, known)]
    loose = [each for sha256, each in there.items() if all_known and sha256 not in needs and sha256 not in named]
    strays = [each for each in listed if each.sha256 is None]
    return CheckResult(
        {"objects": FileCount.of(each.bytes for each in there.values())}, (*findings, *_leftovers(loose, strays))
    )


def _needs(manifest: Manifest) -> Iterator[Need]:
    return (Need(manifest, use, part) for use, part in manifest.objects_by_use())


def _missing(needs: Mapping[str, Sequence[Need]], there: Mapping[str, Listed]) -> Iterator[tuple[str, str]]:
    for sha256, wanted in needs.items():
        size, listed = wanted[0].part.bytes, there.get(sha256)
        if listed is None:
            yield sha256, _MISSING
        elif listed.bytes != size:
            yield sha256, f"has {counted(listed.bytes, 'byte')} instead of {size:,}"


def _damaged(store: ObjectStore, objects: Sequence[Listed]) -> Iterator[tuple[str, str]]:
    """Objects whose bytes do not have the SHA-256 in their name."""

    def verify(each: Listed) -> str:
        assert each.sha256
        try:
            store.verify(each.sha256)
        except OSError as error:
            return _reason(error, each.sha256)
        except CorruptError:
            # An object that was removed meanwhile was not needed.
            return "is damaged: its bytes do not have this SHA-256" if store.has(each.sha256, each.bytes) else ""
        return ""

    with ThreadPoolExecutor() as threads:
        for each, what in zip(objects, threads.map(verify, objects), strict=True):
            if what and each.sha256:
                yield each.sha256, what


def _of_object(sha256: str, what: str, needs: Sequence[Need], named: bool) -> Finding:
    where = f"objects/{sha256[:2]}/{sha256}"
    if not needs:
        advice = "its partition runs again when it is needed" if named else "no version needs it"
        return Finding("error", where, what, f"delete it: {advice}")
    uses = ", ".join(sorted({need.what for need in needs}))
    pipelines = " and ".join(sorted({need.manifest.pipeline for need in needs}))
    first = "" if what == _MISSING else "delete it and "
    advice = f"{first}run {pipelines} again: that restores it, and the versions keep their numbers"
    return Finding("error", where, f"({uses}) {what}", advice, tuple(sorted({str(need.manifest.ref) for need in needs})))


def _of_version(manifest: Manifest, what: str) -> Finding:
    advice = f"its objects were written wrong, not damaged later: report it, and force {manifest.pipeline} to run again"
    return Finding("error", f"manifests/{manifest.version_id}.json", what, advice, (str(manifest.ref),))


# -- leftovers -------------------------------------------------------------------------------------------------------

_COLLECT = "garbage collection removes it"


def _leftovers(loose: Sequence[Listed], strays: Sequence[Listed]) -> Iterator[Finding]:
    if loose:
        count = _files(FileCount.of(each.bytes for each in loose))
        what = f"{count} that no version refers to, left by a crash or written by a run in progress"
        yield Finding("note", "objects", what, _COLLECT, remedy="collect")
    if strays:
        what = f"{_files(FileCount.of(each.bytes for each in strays))} other than objects, for example {strays[0].name}"
        yield Finding("note", "objects", what, _COLLECT, remedy="collect")


def _foreign_files(root: Path) -> CheckResult:
    """What is neither a file nor a folder. The registry does not follow such things, but other programs do."""
    found = []
    for folder, folders, names in os.walk(root):
        for path in sorted(Path(folder, name) for name in (*folders, *names)):
            if (kind := plain_files.kind(path)) not in (None, "a file", "a folder"):
                where = path.relative_to(root).as_posix()
                found.append(Finding("error", where, f"is {kind}, and the registry did not create it", "delete it"))
    return CheckResult({}, tuple(found))


def _crash_files(root: Path) -> CheckResult:
    """What crashes and damage left behind."""
    found = sorted(crash_files(root))
    return CheckResult(
        {},
        tuple(Finding("note", str(path.relative_to(root)), f"is {what}", _COLLECT, remedy="collect") for path, what in found),
    )


def _files(found: FileCount) -> str:
    return f"{counted(found.count, 'file')} ({counted(found.bytes, 'byte')})"
