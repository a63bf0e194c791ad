"""Opens files of a registry: plain files in plain folders, and nothing else.

A registry contains no links, pipes or devices. Following one could read, change or delete files elsewhere, or block forever,
so it is an error that names it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from registry.errors import CorruptError

_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
}


def read(path: Path) -> bytes:
    """The bytes of a plain file; raises FileNotFoundError when it is missing, CorruptError when it is something else."""
    with opened(path) as file:
        return file.read()


def opened(path: Path) -> BinaryIO:
    """A plain file, open for reading. Raises the same as `read`."""
    return os.fdopen(_descriptor(path, os.O_RDONLY), "rb")


def written(path: Path) -> BinaryIO:
    """A plain file, open for reading and writing at its start, unbuffered; created if missing. Raises CorruptError."""
    return os.fdopen(_descriptor(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)


def about(path: Path) -> os.stat_result | None:
    """The status of a plain file; None when it is missing or something else."""
    found = _lstat(path)
    return found if found and stat.S_ISREG(found.st_mode) else None


def refuse(path: Path, wanted: str) -> None:
    """Raise CorruptError if something exists at a path; `wanted` says what should be there."""
    if found := kind(path):
        raise _wrong(path, found, wanted)


def kind(path: Path) -> str | None:
    """What exists at a path ("a file"); None when nothing does."""
    found = _lstat(path)
    return kind_of(found.st_mode) if found else None


def kind_of(mode: int) -> str:
    """What a file of this mode is ("a file")."""
    return _KINDS.get(stat.S_IFMT(mode), "no file")


def folder(path: Path) -> Path:
    """The path, if it is a folder or does not exist; raises CorruptError for anything else, also a link to a folder."""
    if (found := kind(path)) not in (None, "a folder"):
        raise _wrong(path, found, "a folder")
    return path


def folders(path: Path) -> list[Path]:
    """The folders in a folder, without links to folders; empty when it is missing. Raises CorruptError."""
    try:
        with os.scandir(folder(path)) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def only_plain(path: Path) -> Path:
    """The path, if it is a folder of plain files and folders, or does not exist; raises CorruptError otherwise."""
    for each in folder(path).iterdir() if kind(path) else ():
        if (found := kind(each)) not in (None, "a file", "a folder"):
            raise _wrong(each, found, "a file")
    return path


def files(path: Path) -> Iterator[os.stat_result]:
    """The status of all plain files in a folder, at any depth."""
    for parent, _, names in os.walk(folder(path)):
        yield from filter(None, (about(Path(parent, name)) for name in names))


def below(root: Path, name: str) -> Path:
    """`root/name`; raises CorruptError unless `root` and all folders in between are folders, or missing."""
    # Strings, because a Path for each folder takes longer than looking at it; there are several objects a partition.
    path = str(root)
    *between, last = name.split("/")
    for part in ("", *between):
        path = f"{path}/{part}" if part else path
        found = _lstat(path)
        if found and not stat.S_ISDIR(found.st_mode):
            raise _wrong(Path(path), kind_of(found.st_mode), "a folder")
    return Path(path, last)


def _descriptor(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | _SAFE, 0o666)
    except OSError as error:
        # Links give ELOOP, sockets and pipes ENXIO, folders EISDIR.
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR) and (found := kind(path)):
            raise _wrong(path, found, "a file") from error
        raise
    found_mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(found_mode):
        os.close(descriptor)
        raise _wrong(path, kind_of(found_mode), "a file")
    return descriptor


def _lstat(path: Path | str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _wrong(path: Path, found: str | None, wanted: str) -> CorruptError:
    return CorruptError(f"{path} is {found}, not {wanted}: the registry did not create it, and does not follow it")
