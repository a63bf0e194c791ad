"""Finds what does not belong in a registry: unneeded objects, other files, and what crashes left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from registry.counted import counted
from registry.storage import plain_files
from registry.storage.objects import Listed
from registry.upkeep.crash_files import crash_files
from registry.upkeep.findings import CheckResult, FileCount, Finding

_COLLECT = "garbage collection removes it"


def unneeded_objects(loose: Sequence[Listed], strays: Sequence[Listed]) -> Iterator[Finding]:
    if loose:
        count = _files(FileCount.of(each.bytes for each in loose))
        what = f"{count} that no version refers to, left by a crash or written by a run in progress"
        yield Finding("note", "objects", what, _COLLECT, remedy="collect")
    if strays:
        what = f"{_files(FileCount.of(each.bytes for each in strays))} other than objects, for example {strays[0].name}"
        yield Finding("note", "objects", what, _COLLECT, remedy="collect")


def foreign_files(root: Path) -> CheckResult:
    """Links and other things that are neither a file nor a folder. The registry does not follow them, but other programs do."""
    found = []
    for folder, folders, names in os.walk(root):
        for path in sorted(Path(folder, name) for name in (*folders, *names)):
            if (kind := plain_files.kind(path)) not in (None, "a file", "a folder"):
                where = path.relative_to(root).as_posix()
                found.append(Finding("error", where, f"is {kind}, and the registry did not create it", "delete it"))
    return CheckResult({}, tuple(found))


def left_by_crashes(root: Path) -> CheckResult:
    """Leftovers of crashes and damage."""
    found = sorted(crash_files(root))
    return CheckResult(
        {},
        tuple(Finding("note", str(path.relative_to(root)), f"is {what}", _COLLECT, remedy="collect") for path, what in found),
    )


def _files(found: FileCount) -> str:
    return f"{counted(found.count, 'file')} ({counted(found.bytes, 'byte')})"
