"""Opens what lies in a registry: plain files in plain folders, and nothing else.

A registry holds no links, pipes or devices. Following one could read, change or delete files elsewhere, or wait forever, so
whoever meets one gets an error that names it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
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
    """A plain file's bytes; raises FileNotFoundError when it is absent, CorruptError when it is something else."""
    with opened(path) as file:
        return file.read()


def opened(path: Path) -> BinaryIO:
    """A plain file, open for reading. Raises as `read`."""
    return os.fdopen(_descriptor(path, os.O_RDONLY), "rb")


def written(path: Path) -> BinaryIO:
    """A plain file, open for reading and writing at its start, unbuffered; made when it is absent. Raises CorruptError."""
    return os.fdopen(_descriptor(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)


def about(path: Path) -> os.stat_result | None:
    """What the system knows of a plain file; None when there is none, also when something else is there."""
    found = _lstat(path)
    return found if found and stat.S_ISREG(found.st_mode) else None


def refuse(path: Path, wanted: str) -> None:
    """Raise CorruptError when there is something at a path, which is not `wanted`."""
    if found := kind(path):
        raise _wrong(path, found, wanted)


def kind(path: Path) -> str | None:
    """What is at a path, in words; None when nothing is."""
    found = _lstat(path)
    return kind_of(found.st_mode) if found else None


def kind_of(mode: int) -> str:
    """What a file's mode says that it is, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "no file")


def folder(path: Path) -> Path:
    """The path of a folder, or of nothing yet; raises CorruptError when something else is there, such as a link to a folder."""
    if (found := kind(path)) not in (None, "a folder"):
        raise _wrong(path, found, "a folder")
    return path


def folders(path: Path) -> list[Path]:
    """The folders in a folder, links to folders not among them; none when it is absent. Raises CorruptError."""
    try:
        with os.scandir(folder(path)) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def only_plain(path: Path) -> Path:
    """The path of a folder, or of nothing yet; raises CorruptError when something in it is neither a file nor a folder."""
    for each in folder(path).iterdir() if kind(path) else ():
        if (found := kind(each)) not in (None, "a file", "a folder"):
            raise _wrong(each, found, "a file")
    return path


def files(path: Path) -> Iterator[os.stat_result]:
    """What the system knows of all plain files in a folder, at any depth."""
    for parent, _, names in os.walk(folder(path)):
        yield from filter(None, (about(Path(parent, name)) for name in names))


def below(root: Path, name: str) -> Path:
    """`root/name`; raises CorruptError unless `root` and all on the way are folders, or absent."""
    path = folder(root)
    *between, last = PurePosixPath(name).parts
    for part in between:
        path = folder(path / part)
    return path / last


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


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _wrong(path: Path, found: str | None, wanted: str) -> CorruptError:
    return CorruptError(f"{path} is {found}, not {wanted}: the registry did not put it there, and does not follow it")
