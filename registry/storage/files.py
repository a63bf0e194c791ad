"""Folders of files that are written whole: what the object store and the manifests stand on, here or far away."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from registry.storage import plain_files

__all__ = [
    "FileEntry",
    "Files",
    "LocalFiles",
    "durable_write",
    "fsync_folder",
    "plain_name",
    "replacing",
]


class FileEntry(NamedTuple):
    """A file in a listing: its name below the folder, its size, and when it was written (seconds since 1970)."""

    name: str
    bytes: int
    modified: float


class Files(Protocol):
    """A folder of files. Names are relative (`x.json`, `ab/cd`); one that leads out of the folder is a ValueError.

    The folder is made when something is first written. What is not a plain file (a link, a pipe) is a CorruptError to whoever
    reads it, and for everyone else it is not there.
    """

    @property
    def where(self) -> str:
        """The folder, for messages."""

    def exists(self) -> bool:
        """Whether anything was ever written here."""

    def read(self, name: str) -> bytes:
        """A file's bytes; raises FileNotFoundError when it is absent."""

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Small files by name, all at once; raises FileNotFoundError when one is absent."""

    def read_file(self, name: str, target: Path) -> None:
        """Copy a file, however large, to a path on this machine; raises FileNotFoundError when it is absent."""

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file, durably: after a crash it is whole, or as it was."""

    def write_file(self, name: str, source: Path) -> None:
        """The same with what a file on this machine holds, however large."""

    def size(self, name: str) -> int | None:
        """A file's size in bytes; None when it is absent."""

    def touch(self, name: str) -> bool:
        """Make a file as young as if it were written now. False when it is absent, or can only be written again."""

    def listing(self, strict: bool = True) -> Iterator[FileEntry]:
        """All files, also what crashes left behind (`*.tmp`), in no particular order.

        Raises CorruptError when it meets a link, a pipe or the like; unless `strict`, these are left out.
        """

    def remove(self, name: str) -> None:
        """Remove a file; one that is absent is no error."""


class LocalFiles(Files):
    """Files in a folder of this machine. Links are never followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def where(self) -> str:
        return str(self.root)

    def path(self, name: str) -> Path:
        """Where a file lies, or would lie; raises CorruptError when a folder on the way is not a folder."""
        return plain_files.below(self.root, plain_name(name))

    def exists(self) -> bool:
        return plain_files.kind(self.root) is not None

    def read(self, name: str) -> bytes:
        return plain_files.read(self.path(name))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        return {name: self.read(name) for name in names}

    def read_file(self, name: str, target: Path) -> None:
        with plain_files.opened(self.path(name)) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)

    def write(self, name: str, data: bytes) -> None:
        durable_write(self.path(name), data)

    def write_file(self, name: str, source: Path) -> None:
        with replacing(self.path(name)) as temporary:
            shutil.copyfile(source, temporary)

    def size(self, name: str) -> int | None:
        about = plain_files.about(self.path(name))
        return about.st_size if about else None

    def touch(self, name: str) -> bool:
        path = self.path(name)
        if not plain_files.about(path):
            return False
        try:
            os.utime(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def listing(self, strict: bool = True) -> Iterator[FileEntry]:
        for folder, folders, names in os.walk(plain_files.folder(self.root)):
            for name in names:
                path = Path(folder, name)
                if found := plain_files.about(path):  # it may have gone meanwhile
                    yield FileEntry(path.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)
                elif strict:
                    plain_files.refuse(path, "a file")
            for name in folders if strict else ():
                plain_files.folder(Path(folder, name))

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)


def plain_name(name: str) -> str:
    """The name as it is; raises ValueError unless it is a relative path in its plainest spelling, without `..`."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
        raise ValueError(f"not a file name: {name!r}")
    return name


def durable_write(target: Path, data: bytes) -> None:
    """Write a file so that after a crash it is either whole or as it was: tmp, fsync, rename, fsync of the folder."""
    with replacing(target) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside `target`, to be written; it takes its place, durably, when the block ends without an error."""
    if not target.parent.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(target.parent.parent)
    temporary = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(target.parent)


def fsync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` survive a power cut."""
    _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
