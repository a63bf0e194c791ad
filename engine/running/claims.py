"""Claims on partitions, so that two runs at the same time do not make the same partition.

A run that finds a partition claimed continues with others, and later finds the receipt. A claim is a lock of the operating
system on one byte of a file in the folder of the base key. The lock ends with its process, even if the process is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
from pathlib import Path
from typing import IO

from registry.storage import plain_files
from registry.storage.shared_lock import SharedLock

_OPEN_FILE_LOCKS = getattr(fcntl, "F_OFD_SETLK", None)
"""Linux can lock for an open file instead of a process. Then two runs in one process exclude each other as well."""


class Claims:
    """The claims of one run.

    Args:
        receipts: the registry's folder of receipts.
    """

    def __init__(self, receipts: Path) -> None:
        self._receipts = receipts
        self._held = contextlib.ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._mine: set[tuple[str, str]] = set()

    def join(self, base_key: str) -> None:
        """Keep garbage collection away from the folder of a base key while this run lasts."""
        if base_key in self._files:
            return
        folder = self._receipts / base_key
        plain_files.only_plain(folder).mkdir(parents=True, exist_ok=True)
        self._held.enter_context(SharedLock(folder / "lock", f"receipts in {folder} are being removed").join())
        self._files[base_key] = self._held.enter_context(plain_files.written(folder / "claims.lock"))

    def take(self, base_key: str, digest: str) -> bool:
        """Claim a partition; False while another run, or another step of this run, has it."""
        if (base_key, digest) in self._mine or not _locked(self._files[base_key], _byte(digest)):
            return False
        self._mine.add((base_key, digest))
        return True

    def is_own(self, base_key: str, digest: str) -> bool:
        """Whether a step of this run has claimed a partition."""
        return (base_key, digest) in self._mine

    def release(self, base_key: str, digest: str) -> None:
        """Give a claim back, once the partition has a receipt or has failed."""
        if (base_key, digest) in self._mine:
            self._mine.remove((base_key, digest))
            _unlock(self._files[base_key], _byte(digest))

    def close(self) -> None:
        """Give all claims back."""
        self._mine.clear()
        self._files.clear()
        self._held.close()


def _byte(digest: str) -> int:
    """The place of a partition's lock in the file. The file stays empty: locks may lie beyond its end."""
    return int.from_bytes(hashlib.sha256(digest.encode()).digest()[:7])


def _locked(file: IO[bytes], place: int) -> bool:
    try:
        if _OPEN_FILE_LOCKS is None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        else:
            fcntl.fcntl(file, _OPEN_FILE_LOCKS, _lock(fcntl.F_WRLCK, place))
    except BlockingIOError:
        return False
    return True


def _unlock(file: IO[bytes], place: int) -> None:
    if _OPEN_FILE_LOCKS is None:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)
    else:
        fcntl.fcntl(file, _OPEN_FILE_LOCKS, _lock(fcntl.F_UNLCK, place))


def _lock(kind: int, place: int) -> bytes:
    """A `struct flock` for one byte."""
    return struct.pack("hhqqi", kind, os.SEEK_SET, place, 1, 0)
