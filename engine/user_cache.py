"""The user's cache: its folder, and entries in it that say what was found out once.

An entry is a small file. Its first line is a SHA-256 over what the rest follows from, and the rest, so an entry of something
else, or a damaged one, is the same as none. Nobody else can write an entry: the folder and its files have to belong to the user
alone. Where that is not so, or nothing can be written, there are no entries, and everything works.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from registry.errors import CorruptError
from registry.storage import plain_files


def cache_folder() -> Path:
    """The folder of the cache: ENGINE_CACHE, or else the user's cache folder."""
    root = os.environ.get("ENGINE_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posttrain-engine"


@dataclass(frozen=True)
class Entries:
    """Entries of one kind.

    Args:
        kind: the name of their folder.
        most: of more entries than these, the older half is removed.
        largest: the most bytes that an entry may have.
    """

    kind: str
    most: int = 2000
    largest: int = 16 << 20

    def read(self, name: str, follows_from: bytes) -> bytes | None:
        """The content of an entry; None if there is none that follows from these bytes.

        Args:
            name: a file name, such as a SHA-256.
            follows_from: everything that determines the content.
        """
        try:
            with plain_files.opened(self._folder() / name) as entry:
                if not _is_users(os.fstat(entry.fileno())):
                    return None
                digest, _, content = entry.read(self.largest + 1).partition(b"\n")
        except (OSError, CorruptError):
            return None
        return content if digest == _digest(follows_from, content) else None

    def write(self, name: str, follows_from: bytes, content: bytes) -> None:
        """Write an entry, if that is possible. Of two processes that do so at once, one wins. See `read`."""
        whole = _digest(follows_from, content) + b"\n" + content
        if len(whole) > self.largest:
            return
        with contextlib.suppress(OSError):
            folder = self._folder()
            target = folder / name
            temporary = target.with_name(f"{name}.{os.getpid()}.{threading.get_ident()}")
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as entry:
                    entry.write(whole)
                # Not durable: what a power cut damages is found out again.
                temporary.replace(target)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            self._limit(folder)

    def _folder(self) -> Path:
        """The folder of the entries; raises OSError when the user cannot have it alone."""
        try:
            folder = cache_folder() / self.kind
        except RuntimeError as error:  # the user has no home
            raise FileNotFoundError(str(error)) from error
        if not os.path.lexists(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or not _is_users(about):
            raise PermissionError(f"{folder} is not a folder that only this user can write to")
        return folder

    def _limit(self, folder: Path) -> None:
        """Remove the older half of too many entries: what they follow from may be gone."""
        if len(os.listdir(folder)) > self.most:
            entries = sorted(folder.iterdir(), key=lambda entry: entry.lstat().st_mtime)
            for entry in entries[: len(entries) // 2]:
                entry.unlink(missing_ok=True)


def _is_users(about: os.stat_result) -> bool:
    """Whether a file belongs to this user, and nobody else can write to it."""
    return about.st_uid == os.geteuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest(follows_from: bytes, content: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in (follows_from, content):
        digest.update(f"{len(part)}\n".encode())
        digest.update(part)
    return digest.hexdigest().encode()
