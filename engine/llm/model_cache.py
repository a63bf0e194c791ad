"""The user's cache of model folders. A folder is used only if it contains exactly the files that it was built from.

Each process checks a folder once, before its first use. A folder that is damaged, incomplete or tampered with is rebuilt,
so that nothing in the cache can change a model's answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from engine.errors import EngineError
from engine.user_cache import cache_folder

SUMS = ".sha256.json"
"""In a folder that the engine converted: the checksums of its other files."""

Sums = Mapping[str, str]
"""SHA-256 in hex of a folder's files, by their paths in it (with slashes)."""

_checked: set[Path] = set()


def folder_of(sums: Sums) -> Path:
    """The cache's folder for exactly these files."""
    text = json.dumps(sorted(sums.items()))
    return cache_folder() / "models" / hashlib.sha256(text.encode()).hexdigest()


def cached(folder: Path, build: Callable[[Path], None], sums: Sums | None = None) -> Path:
    """The folder, checked; it is built if it is missing or wrong.

    Args:
        folder: the path of the model in the cache.
        build: fills a new folder.
        sums: the files that belong in it; None: those that `build` creates, whose checksums are stored with them.

    Raises:
        EngineError: it cannot be built; the message names the file.
    """
    if folder in _checked:
        return folder
    if wrong(folder, sums) is not None:
        from filelock import FileLock  # `engine check` does without

        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            trouble = wrong(folder, sums)  # another process may have built it in the meantime
            if trouble is not None:
                _rebuild(folder, build, sums, trouble)
    _checked.add(folder)
    return folder


def wrong(folder: Path, sums: Sums | None = None) -> str | None:
    """What is wrong in a folder, first the names, then the bytes; None if nothing is."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return f"{folder} is not a folder"
        found = sorted(_files(folder))
        if sums is None:
            sums = json.loads(_opened(folder / SUMS).read_bytes())
            found.remove(SUMS)
        if found != sorted(sums):
            different = sorted(set(found) ^ set(sums))[0]
            return f"{folder / different} is {'missing' if different in sums else 'not a file of the model'}"
        for name in found:
            with _opened(folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sums[name]:
                    return f"{folder / name} is damaged"
    except (OSError, ValueError, TypeError) as error:
        return f"{folder} cannot be read: {error}"
    return None


def place_in(folder: Path, name: str) -> Path:
    """The path of a file in a folder, whose parent folders it creates; raises ValueError for a name that points elsewhere."""
    parts = PurePosixPath(name).parts
    if (
        not parts
        or name.startswith("/")
        or ".." in parts
        or "\0" in name
        or "\\" in name
        or PurePosixPath(name).as_posix() != name
    ):
        raise ValueError(f"the file name {name!r} points outside its folder")
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _rebuild(folder: Path, build: Callable[[Path], None], sums: Sums | None, trouble: str) -> None:
    for left in folder.parent.glob(f".{folder.name}.*"):  # left by a killed process: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    try:
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            build(building)
            if sums is None:
                made = {name: _sum(building / name) for name in sorted(_files(building))}
                (building / SUMS).write_text(json.dumps(made, indent=1) + "\n")
            elif (left_wrong := wrong(building, sums)) is not None:
                raise EngineError(f"the registry's files do not form the model: {left_wrong}")
            _put_in_place(building, folder)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    except OSError as error:
        raise EngineError(
            f"cannot build the model's folder in the cache: {error} ({trouble}). Free space or repair {folder.parent}, or "
            "set ENGINE_CACHE to another folder"
        ) from error


def _put_in_place(building: Path, folder: Path) -> None:
    """Replace the folder. Processes that have files of the old one open keep them."""
    if os.path.lexists(folder):
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        folder.rename(aside / "old")  # renames a link itself, not its target
        building.rename(folder)
        with contextlib.suppress(OSError):  # the next build removes it
            if (aside / "old").is_symlink() or not (aside / "old").is_dir():
                (aside / "old").unlink()
            shutil.rmtree(aside)
    else:
        building.rename(folder)


def _files(folder: Path, above: str = "") -> Iterator[str]:
    """The names of everything that is not a folder. Links are not followed: they count as names, and fail when opened."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path), f"{above}{entry.name}/")
            else:
                yield above + entry.name


def _opened(path: Path) -> Path:
    """The path, if it is a plain file; raises ValueError for anything else, such as a link or a pipe."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path} is not a plain file")
    return path


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
