"""Writes a bundle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import PipelineError, Problem
from engine.page.bundle import folder as folders
from engine.page.bundle.contents import Contents
from engine.page.bundle.file_links import ADDRESSES
from engine.page.bundle.finished import finished, places
from engine.page.bundle.rendered import Pages, Snapshot
from engine.page.bundle.row_pages import add_rows, lists
from engine.page.bundle.subject import Subject, subject
from engine.page.rendering.filters import size
from engine.page.sessions import Sessions
from registry.counted import counted

if TYPE_CHECKING:
    from registry import Registry

VIEWS = ("charts", "schema", "card")
"""The views of a dataset beside its rows. The changes since another version are none: they show rows of that version."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written.

    Args:
        name: the run or version that was copied.
        rows: `NAME@V` -> the numbers of rows in the bundle and in the version.
        note: the sentence on each page that says what is included.
    """

    folder: Path
    name: str
    rows: Mapping[str, tuple[int, int]]
    note: str
    files: int
    bytes: int


def write_bundle(
    registry: Registry,
    target: str | None,
    folder: Path,
    *,
    limit: int,
    most: int | None = None,
    advanced: Callable[[int, int], None] = lambda _, __: None,
) -> Bundle:
    """Write the pages of a run or a version into a folder.

    Args:
        target: the id of a run, `NAME@V`, or `NAME` for the latest version; None: the last run.
        folder: new, empty, or of an earlier bundle, which it replaces.
        limit: the maximum bytes of all files together.
        most: the maximum rows of a version; None: as many as there is room for.
        advanced: called with the number of rows that are written, and of those that will be if there is room.

    Raises:
        PipelineError: the folder cannot be used, there is no such run or version, or the limit is too low.
        RegistryError: something cannot be read. The folder is as it was.
    """
    chosen = folders.place(folder, registry.root)
    sessions = Sessions(registry.location)
    try:
        with sessions.reader() as reader:
            found = subject(reader, target)
            pages = Pages(Snapshot(registry.location, reader), found.start, found.name)
            with folders.staged(chosen) as staging:
                return _write(registry, pages, found, staging, chosen, limit, most, advanced)
    finally:
        sessions.close()


def _write(
    registry: Registry,
    pages: Pages,
    found: Subject,
    staging: Path,
    folder: Path,
    limit: int,
    most: int | None,
    advanced: Callable[[int, int], None],
) -> Bundle:
    datasets = [each for each in found.manifests if each.kind == "dataset"]
    mark = {"bundle": 1, "of": found.name, "limit": limit, "most": most, "rows": {str(each.ref): [0, 0] for each in datasets}}
    contents = Contents(staging, limit, used=len(_json(mark)) + 40 * len(datasets))
    fixed = [pages.page(each) for each in _fixed(found)]
    least = contents.cost([*fixed, *(page for each in datasets for page in lists(pages, each, 0))])
    if least > contents.room:
        what = f"--max-size {size(limit)}: the pages of {found.name} take {size(least + contents.used)} without any row"
        raise PipelineError([Problem(what, hint="allow more, or copy one version: NAME@V")])
    contents.add(fixed)
    taken = add_rows(pages, contents, datasets, most, advanced)
    rows = {str(each.ref): (taken[str(each.ref)], each.rows) for each in datasets}
    note = _note(found, rows, limit, most)
    files = {*contents.pages, *contents.static}
    hidden = places(_of_this_machine(registry))
    total = 0
    for file in contents.pages:
        path = staging / file
        path.write_bytes(finished(path.read_bytes().decode(), file, files, note, hidden).encode())
    (staging / folders.MARK).write_bytes(_json({**mark, "rows": rows}))
    for each in staging.rglob("*"):
        total += each.stat().st_size if each.is_file() else 0
    assert total <= limit, f"a bundle of {counted(total, 'byte')}, of at most {limit}"
    return Bundle(folder, found.name, rows, note, len(files) + 1, total)


def _fixed(found: Subject) -> list[str]:
    """The pages that are in a bundle whatever its limit."""
    return [
        *([] if found.start.startswith("versions/") else [found.start]),
        *(
            ADDRESSES.version(each.name, each.version, view=view)
            for each in found.manifests
            for view in (VIEWS if each.kind == "dataset" else ("",))
        ),
    ]


def _note(found: Subject, rows: Mapping[str, tuple[int, int]], limit: int, most: int | None) -> str:
    taken, total = (sum(each[place] for each in rows.values()) for place in (0, 1))
    start = f"A copy of {found.name}"
    if not rows:
        return f"{start}."
    of = f" of {counted(len(rows), 'dataset')}" if len(rows) > 1 else ""
    if taken == total:
        return f"{start}, with all {counted(total, 'row')}{of}."
    fewest = " of each" if len(rows) > 1 else ""
    wanted = sum(min(number, most) for _, number in rows.values()) if most is not None else total
    why = f"to keep the copy under {size(limit)}" if taken < wanted else f"because at most {most:,} of each were requested"
    some = f"{taken:,} of its {counted(total, 'row')}{of}: the first ones{fewest}"
    return f"{start}, with {some}. {total - taken:,} are left out {why}."


def _of_this_machine(registry: Registry) -> list[str]:
    folder = str(registry.root)
    found = [folder, os.path.realpath(folder), str(Path.cwd()), str(Path.home()), tempfile.gettempdir()]
    return [*found, *([registry.url] if registry.url else [])]


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=True, indent=1) + "\n").encode()
