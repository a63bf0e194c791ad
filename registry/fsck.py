"""Proves that a registry holds what was written to it; tells what does not, which versions that hits, and what to do.

Reads only: whatever is damaged stays where it is. Rows are proven in registry.proof.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
from pydantic import ValidationError

from registry.database import DamagedError, Database, StaleError, sql
from registry.documents import read_checked_json
from registry.files import CorruptError, Files
from registry.intent import IntentFile
from registry.lock import RegistryLock
from registry.manifest import DataObject, Event, Manifest, SideObject
from registry.registry import Registry
from registry.rows import TABLES, Rows, insert, latest, manifest_rows, merged, run_rows
from registry.store import Listed, ObjectStore


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Args:
        severity: `error`: something is damaged or lost; `note`: something is left over, or behind, and nothing is lost.
        where: a file or folder, below the registry.
        what: is the matter with it.
        advice: what to do about it.
        versions: `NAME@V` of the versions that it hits.
    """

    severity: Literal["error", "note"]
    where: str
    what: str
    advice: str
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tally:
    """How many there are, and their size in bytes."""

    count: int
    bytes: int

    @classmethod
    def of(cls, sizes: Iterable[int]) -> Tally:
        """Of things of these sizes."""
        sizes = list(sizes)
        return cls(len(sizes), sum(sizes))


@dataclass(frozen=True)
class Report:
    """What was looked at, by kind, and what was found."""

    looked_at: Mapping[str, Tally] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def __add__(self, other: Report) -> Report:
        return Report({**self.looked_at, **other.looked_at}, self.findings + other.findings)

    @property
    def errors(self) -> list[Finding]:
        """What is damaged or lost."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def notes(self) -> list[Finding]:
        """What is left over, or behind."""
        return [finding for finding in self.findings if finding.severity == "note"]


def fsck(registry: Registry, *, deep: bool = False, named: Collection[str] = ()) -> Report:
    """Look at manifests, run journals, pins, objects and the catalog.

    Commits wait while the small files are read and compared with the catalog. While objects are read, only versions that
    nobody needs stay a bit longer.

    Args:
        deep: read every byte of every object, and compare rows with content ids; else presence and size will do.
        named: objects that something beside the versions needs.

    Raises:
        LockedError: another process has held the registry's lock for too long.
    """
    with registry.catalog.reading():
        with RegistryLock(registry.root).held():
            truth, report = _truth(registry)
            report += _catalog(registry, truth, comparable=not (report.errors or truth.unread))
        report += _objects(registry.store, truth.manifests, frozenset(named), deep=deep, all_known=not truth.unread)
        return report + _rests(registry.root)


# -- the small files --------------------------------------------------------------------------------------------------


class _Truth(NamedTuple):
    """What those files say that are undamaged; and of which versions the manifest is not, and why."""

    manifests: Sequence[Manifest]
    unread: Mapping[str, str]
    runs: Sequence[Sequence[Event]]
    marks: Rows

    @property
    def rows(self) -> Rows:
        """The tables that follow from it."""
        rows = merged([*map(manifest_rows, self.manifests), *map(run_rows, self.runs), self.marks])
        return rows | {"refs": latest(rows["refs"])}


def _truth(registry: Registry) -> tuple[_Truth, Report]:
    manifests, unread, report = _manifests(registry)
    runs, of_runs = _runs(registry)
    pins, of_pins = _marks(registry.root / "pins", "pins", "delete the file and pin the version again")
    numbers, of_numbers = _marks(
        registry.root / "numbers",
        "numbers",
        "delete the file and run `engine rebuild`: numbers of versions that are gone may then be given again",
    )
    truth = _Truth(manifests, unread, runs, {"pins": pins, "numbers": numbers})
    return truth, report + of_runs + of_pins + of_numbers


def _manifests(registry: Registry) -> tuple[list[Manifest], dict[str, str], Report]:
    found: dict[str, Manifest] = {}
    unread: dict[str, str] = {}
    files = _documents(registry.manifests)
    for name in files:
        try:
            found[Path(name).stem] = registry.catalog.manifest(Path(name).stem)
        except (CorruptError, ValidationError, OSError) as error:
            unread[Path(name).stem] = _reason(error)
    findings = []
    numbers: defaultdict[str, list[str]] = defaultdict(list)
    for version_id, manifest in found.items():
        numbers[str(manifest.ref)].append(version_id)
    for ref, ids in numbers.items():
        if len(ids) > 1:
            what = f"{len(ids)} files claim to be {ref}: {', '.join(sorted(ids))}"
            findings.append(Finding("error", "manifests", what, "delete those that do not belong here", (ref,)))
    return list(found.values()), unread, Report({"manifests": Tally.of(files.values())}, tuple(findings))


def _runs(registry: Registry) -> tuple[list[list[Event]], Report]:
    advice = (
        "versions are not hit, and the catalog still has what the run told, as long as it is not made again. For `engine "
        "rebuild` to work, move the file away: it then forgets the run and the latest versions that it set"
    )
    log = registry.catalog.runs
    found, findings, sizes = [], [], []
    for run_id in log.run_ids():
        path = log.path(run_id)
        try:
            sizes.append(path.stat().st_size)
            found.append(log.read(run_id))
        except (CorruptError, ValidationError, OSError) as error:
            findings.append(Finding("error", f"runs/{path.name}", _reason(error), advice))
    return found, Report({"run journals": Tally.of(sizes)}, tuple(findings))


def _marks(folder: Path, kind: str, advice: str) -> tuple[list[dict[str, Any]], Report]:
    found, findings, sizes = [], [], []
    for path in sorted(folder.glob("*.json")):
        try:
            sizes.append(path.stat().st_size)
            found.append(read_checked_json(path))
        except (CorruptError, OSError) as error:
            findings.append(Finding("error", f"{folder.name}/{path.name}", _reason(error), advice))
    return found, Report({kind: Tally.of(sizes)} if sizes else {}, tuple(findings))


def _documents(files: Files) -> dict[str, int]:
    """The JSON files of a folder with their sizes."""
    return {entry.name: entry.bytes for entry in sorted(files.listing()) if entry.name.endswith(".json")}


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "was written by another version of the engine, and cannot be read by this one"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    line = str(error).partition(", line ")[2].partition(",")[0]
    return f"is damaged{f' in line {line}' if line else ''}: its checksum does not match"


# -- the catalog ------------------------------------------------------------------------------------------------------

_LATER = "nothing is lost: the next command sees to it"


def _catalog(registry: Registry, truth: _Truth, comparable: bool) -> Report:
    """Whether the DuckDB file can be read, and holds what the other files say. It knows what unread manifests are of."""
    file = registry.catalog.file
    opened = _opened(registry, comparable)
    if isinstance(opened, Finding):
        return Report({}, (*_unread(truth, {}), opened))
    looked_at = {"catalog": Tally.of([file.stat().st_size])}
    with opened as tables:
        names = dict(tables.execute("select version_id, name || '@' || version from internal.versions").fetchall())
        if not comparable:
            what = "was not compared with the other files, because some of these are damaged"
            return Report(looked_at, (*_unread(truth, names), Finding("note", file.name, what, "mend these and look again")))
        tables.execute("create schema truth")
        tables.execute("use memory.truth")
        tables.execute(sql("tables.sql"))
        insert(tables, truth.rows)
        tables.execute("use memory.main")
        return Report(looked_at, tuple(_differences(file.name, tables)))


def _opened(registry: Registry, comparable: bool) -> duckdb.DuckDBPyConnection | Finding:
    """A copy of the tables, or why there is none."""
    file = registry.catalog.file
    if IntentFile(registry.root / "registry.intent").read():
        return Finding("note", "registry.intent", "a change was begun and did not come to its end", _LATER)
    try:
        return Database(file).copy()
    except DamagedError as error:
        moved = "nothing is lost: the next command moves it aside and makes it again from the other files"
        advice = moved if comparable else "mend the other files first: it is made again from them"
        return Finding("error", file.name, f"is damaged: {error}", advice)
    except StaleError as error:
        return Finding("note", file.name, f"is to be made again: {error}", _LATER)


def _unread(truth: _Truth, names: Mapping[str, str]) -> Iterator[Finding]:
    advice = "delete the file, run `engine rebuild` and then the pipeline that made the version: it is made of what is there"
    for version_id, what in truth.unread.items():
        hit = (names[version_id],) if version_id in names else ()
        yield Finding("error", f"manifests/{version_id}.json", what, advice, hit)


def _differences(file: str, tables: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    lost = "the catalog alone still knows of it. Bring the file back from a copy: `engine rebuild` would forget it"
    query = "select name || '@' || version, version_id from internal.versions anti join truth.versions using (version_id)"
    for ref, version_id in tables.execute(query).fetchall():
        yield Finding("error", f"manifests/{version_id}.json", "is missing", lost, (ref,))
    query = "select run_id from internal.runs anti join truth.runs using (run_id)"
    for (run_id,) in tables.execute(query).fetchall():
        yield Finding("error", f"runs/{run_id}.ndjson", "is missing", lost)
    for table in TABLES:
        query = "select count(*) from (from {0}.{2} except all from {1}.{2})"
        [(more,)] = tables.execute(query.format("internal", "truth", table)).fetchall()
        [(fewer,)] = tables.execute(query.format("truth", "internal", table)).fetchall()
        if more or fewer:
            what = f"table {table} has {more:,} rows that no other file tells of, and lacks {fewer:,} that one does"
            yield Finding("error", file, what, "`engine rebuild` makes it again from the other files")


# -- objects ----------------------------------------------------------------------------------------------------------


class Need(NamedTuple):
    """A version that needs an object, what for, and how it should be."""

    manifest: Manifest
    what: str
    part: DataObject | SideObject


def _objects(
    store: ObjectStore, manifests: Sequence[Manifest], named: frozenset[str], *, deep: bool, all_known: bool
) -> Report:
    """Look at objects. Which of them are left over is not told unless all manifests are known."""
    listed = list(store.listing())
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
        from registry.proof import disproof  # brings pandas

        known = {(manifest.name, manifest.version): manifest.rows for manifest in manifests}
        for manifest in manifests:
            if not any(need.part.sha256 in bad for need in _needs(manifest)):
                findings += [_of_version(manifest, what) for what in disproof(store, manifest, known)]
    loose = [each for sha256, each in there.items() if all_known and sha256 not in needs and sha256 not in named]
    rests = [each for each in listed if each.sha256 is None]
    return Report({"objects": Tally.of(each.bytes for each in there.values())}, (*findings, *_leftovers(loose, rests)))


def _needs(manifest: Manifest) -> Iterator[Need]:
    yield Need(manifest, "key document", manifest.key_object)
    yield from (Need(manifest, "rows", part) for part in manifest.data)
    yield from (Need(manifest, part.kind, part) for part in manifest.side)
    yield from (Need(manifest, "files", part) for part in manifest.attachments)


def _missing(needs: Mapping[str, Sequence[Need]], there: Mapping[str, Listed]) -> Iterator[tuple[str, str]]:
    for sha256, wanted in needs.items():
        size, listed = wanted[0].part.bytes, there.get(sha256)
        if listed is None:
            yield sha256, "is missing"
        elif listed.bytes != size:
            yield sha256, f"has {listed.bytes:,} bytes instead of {size:,}"


def _damaged(store: ObjectStore, objects: Sequence[Listed]) -> Iterator[tuple[str, str]]:
    """Objects whose bytes do not have the SHA-256 that they are named by."""

    def verify(each: Listed) -> str:
        assert each.sha256
        try:
            store.verify(each.sha256)
        except OSError as error:
            return _reason(error)
        except CorruptError:
            # One that has gone by now had no need to be there.
            return "is damaged: its bytes do not have this SHA-256" if store.has(each.sha256, each.bytes) else ""
        return ""

    with ThreadPoolExecutor() as threads:
        for each, what in zip(objects, threads.map(verify, objects), strict=True):
            if what and each.sha256:
                yield each.sha256, what


def _of_object(sha256: str, what: str, needs: Sequence[Need], named: bool) -> Finding:
    where = f"objects/{sha256[:2]}/{sha256}"
    if not needs:
        advice = "the work that it is of is done again when it is needed" if named else "no version is known to need it"
        return Finding("error", where, what, f"delete it: {advice}")
    uses = ", ".join(sorted({need.what for need in needs}))
    pipelines = " and ".join(sorted({need.manifest.pipeline for need in needs}))
    advice = f"{'' if what == 'is missing' else 'delete it and '}run {pipelines} again: it is made anew for the same versions"
    return Finding("error", where, f"({uses}) {what}", advice, tuple(sorted({str(need.manifest.ref) for need in needs})))


def _of_version(manifest: Manifest, what: str) -> Finding:
    advice = (
        f"its objects are as they were written, so they were written wrong: report it, and run {manifest.pipeline} with --force"
    )
    return Finding("error", f"manifests/{manifest.version_id}.json", what, advice, (str(manifest.ref),))


# -- what is left over ------------------------------------------------------------------------------------------------

_COLLECT = "`engine gc` shows what may go"


def _leftovers(loose: Sequence[Listed], rests: Sequence[Listed]) -> Iterator[Finding]:
    if loose:
        what = f"{_files(Tally.of(each.bytes for each in loose))} that no version needs: left over, or of a run in progress"
        yield Finding("note", "objects", what, _COLLECT)
    if rests:
        what = f"{_files(Tally.of(each.bytes for each in rests))} that is no object, such as {rests[0].name}"
        yield Finding("note", "objects", what, _COLLECT)


def _rests(root: Path) -> Report:
    """What crashes and damage left beside the small files."""
    folders = (root, *(root / name for name in ("manifests", "runs", "pins", "numbers")))
    patterns = {".*.tmp": "a file that was being written", "*.building": "a catalog that was being made"}
    patterns["*.damaged-*"] = "a damaged catalog; another was made in its place"
    found = sorted((path, what) for folder in folders for pattern, what in patterns.items() for path in folder.glob(pattern))
    return Report({}, tuple(Finding("note", str(path.relative_to(root)), what, _COLLECT) for path, what in found))


def _files(tally: Tally) -> str:
    return f"{tally.count:,} {'file' if tally.count == 1 else 'files'} ({tally.bytes:,} bytes)"
