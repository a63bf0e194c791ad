"""Folders of files that are written whole, local or remote: the basis of the object store and the manifests."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
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
    """A folder of files. Names are relative (`x.json`, `ab/cd`); one that points out of the folder is a ValueError.

    The folder is created when something is first written. Reading something that is not a plain file (a link, a pipe) is a
    CorruptError; other methods ignore it.
    """

    @property
    def where(self) -> str:
        """The folder, for messages."""

    def exists(self) -> bool:
        """Whether anything was ever written here."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises FileNotFoundError when it is missing."""

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Small files by name, all at once; raises FileNotFoundError when one is missing."""

    def read_file(self, name: str, target: Path) -> None:
        """Copy a file of any size to a path on this machine; raises FileNotFoundError when it is missing."""

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file durably: after a crash, it is either new or unchanged."""

    def write_file(self, name: str, source: Path) -> None:
        """The same with the content of a file of any size on this machine."""

    def size(self, name: str) -> int | None:
        """The size of a file in bytes; None when it is missing."""

    def touch(self, name: str) -> bool:
        """Give a file the current time. Returns False when it is missing, or has to be written again for that."""

    def listing(self, strict: bool = True) -> Iterator[FileEntry]:
        """All files, including what crashes left behind (`*.tmp`), in no particular order.

        Raises CorruptError for links, pipes and the like, or leaves them out unless `strict`.
        """

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""


class LocalFiles(Files):
    """Files in a folder of this machine. Links are never followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def where(self) -> str:
        return str(self.root)

    def path(self, name: str) -> Path:
        """The path of a file, whether it exists or not; raises CorruptError when a parent is not a folder."""
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
                if found := plain_files.about(path):  # it may have been removed meanwhile
                    yield FileEntry(path.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)
                elif strict:
                    plain_files.refuse(path, "a file")
            for name in folders if strict else ():
                plain_files.folder(Path(folder, name))

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)


def plain_name(name: str) -> str:
    """The name itself; raises ValueError unless it is a normalized relative path without `..`."""
    if "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(f"not a file name: {name!r}")
    return name


def durable_write(target: Path, data: bytes) -> None:
    """Write a file so that after a crash it is either new or unchanged: tmp, fsync, rename, fsync of the folder."""
    with _renamed(target) as temporary:
        # Without a file object, which takes longer to make than a small file to write.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary file to write in the folder of `target`. It replaces `target`, durably, if the block raises no error."""
    with _renamed(target) as temporary:
        yield Path(temporary)
        _fsync(temporary)


@contextmanager
def _renamed(target: Path) -> Iterator[str]:
    """The same for a file that is durable at the end of the block."""
    folder, name = os.path.split(target)
    folder = folder or "."
    if not os.path.exists(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(target.parent.parent)
    temporary = f"{folder}/.{name[:40]}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _fsync(folder)


def fsync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` survive a power cut."""
    _fsync(folder)


def _fsync(path: Path | str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
