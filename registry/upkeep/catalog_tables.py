"""Checks that the catalog can be read, and that its tables say what the small files say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import duckdb

from registry.catalog.database import Database
from registry.catalog.manifest import Manifest, VersionRef
from registry.catalog.rows import TABLES, insert
from registry.catalog.sql_files import sql
from registry.catalog.write_ahead import IntentFile
from registry.counted import counted
from registry.errors import CorruptError, DamagedError, StaleError, UnfitError
from registry.registry import Registry
from registry.upkeep.findings import MISSING, CheckResult, FileCount, Finding, reason_of
from registry.upkeep.small_files import IntactFiles

LACKS_ONE = "lacks the manifest of a version"
_ONLY_COPY = "restore the file from a backup. Only the catalog still knows about it, and rebuilding the catalog would forget it"
_LATER = "nothing is lost: the next command repairs it"


def check_catalog(registry: Registry, files: IntactFiles) -> CheckResult:
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


def _opened(registry: Registry, files: IntactFiles) -> duckdb.DuckDBPyConnection | Finding:
    """A copy of the tables, or the reason why there is none."""
    file = registry.catalog.file
    try:
        begun = IntentFile(registry.root / "registry.intent").read()
    except CorruptError as error:
        return Finding("error", "registry.intent", reason_of(error, "registry.intent"), "delete it")
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


def _unread(files: IntactFiles, names: Mapping[str, str]) -> Iterator[Finding]:
    advice = "delete the file, rebuild the catalog, and run the pipeline that made the version: its calls are not repeated"
    for version_id, what in files.unread.items():
        damaged = (names[version_id],) if version_id in names else ()
        yield Finding("error", f"manifests/{version_id}.json", what, advice, damaged, remedy="rebuild")


def _lost(files: IntactFiles, names: Mapping[str, str]) -> Iterator[Finding]:
    """Missing manifests: the catalog has their version, or another version was made from it, or a run made it the latest.

    Args:
        names: the catalog's version ids, each with its `NAME@V`.
    """
    there = {manifest.version_id for manifest in files.manifests} | files.unread.keys()
    for version_id in sorted(names.keys() - there):
        yield Finding("error", f"manifests/{version_id}.json", MISSING, _ONLY_COPY, (names[version_id],))
    if not files.whole:
        return  # it may be one of the damaged files
    known = {str(manifest.ref) for manifest in files.manifests} | set(names.values())
    known |= {f"{number['name']}@{number['version']}" for number in files.marks["numbers"]}
    needed = {str(ref): f"{manifest.ref} was made from it" for manifest in files.manifests for ref in _made_from(manifest)}
    for row in files.rows["refs"]:
        needed.setdefault(f"{row['name']}@{row['version']}", f"run {row['run_id']} made it the latest")
    for ref in sorted(needed.keys() - known):
        advice = f"{needed[ref]}. Restore the file from a backup, or run the pipeline that made it again"
        yield Finding("error", "manifests", LACKS_ONE, advice, (ref,))


def _lost_runs(registry: Registry, runs: Iterable[str]) -> Iterator[Finding]:
    """Missing journals of runs that the catalog has."""
    for run_id in sorted(set(runs) - set(registry.catalog.runs.run_ids())):
        yield Finding("error", f"runs/{run_id}.ndjson", MISSING, _ONLY_COPY)


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
