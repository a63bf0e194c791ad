"""The folder of a bundle: written next to its final place and then moved there, so it exists whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import PipelineError, Problem
from engine.page.bundle.file_links import INDEX, STATIC

MARK = "bundle.json"
"""The file that says what a bundle is a copy of; a folder that has it may be replaced by another bundle."""

_OURS = frozenset({INDEX, MARK, STATIC, "runs", "versions", "rows", "values"})


def place(folder: Path, registry: Path | None) -> Path:
    """The absolute path of a folder that a bundle may be written to. Raises PipelineError.

    Args:
        registry: the folder of the registry, if it is one.
    """
    # No `resolve`: a link must not be followed.
    chosen = Path(os.path.abspath(folder))
    hint = "choose a new or empty folder, or that of an earlier bundle"
    if chosen.is_symlink():
        raise PipelineError([Problem(f"--bundle {folder}: this is a link", hint=hint)])
    if chosen.exists() and not chosen.is_dir():
        raise PipelineError([Problem(f"--bundle {folder}: this is a file", hint=hint)])
    if registry and chosen.resolve().is_relative_to(registry.resolve()):
        raise PipelineError([Problem(f"--bundle {folder}: this is in the registry", hint="choose a folder outside")])
    if chosen.is_dir():
        names = {each.name for each in chosen.iterdir()}
        if names and MARK not in names:
            raise PipelineError([Problem(f"--bundle {folder}: it is not empty, and it is not a bundle", hint=hint)])
        if others := sorted(names - _OURS):
            what = f"--bundle {folder}: it has {others[0]!r}, which is not from a bundle and would be deleted"
            raise PipelineError([Problem(what, hint="move it away, or choose another folder")])
    return chosen


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder to write into. At the end of the block it is moved to its place; after an error, nothing has changed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = f".{folder.name[:40]}-{uuid.uuid4().hex[:8]}"
    staging, before = (folder.with_name(f"{name}.{end}") for end in ("new", "old"))
    staging.mkdir()
    try:
        yield staging
        if folder.exists():
            folder.rename(before)
        staging.rename(folder)
    except BaseException:
        if before.exists() and not folder.exists():
            before.rename(folder)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
