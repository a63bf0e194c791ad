"""Disk space that is kept for what must still be written when the disk is full."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

RESERVE_BYTES = 16 << 20
_LEAST_BYTES = 1 << 20
_SHARE = 4
"""On a small disk, at most a quarter of the free space."""


class DiskReserve:
    """Space in a folder's file system, held by an unnamed file: it is free again when the process ends or dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def take(self) -> bool:
        """Hold the space, unless it is already held. Returns whether it is held now."""
        if self._file is None:
            size = min(RESERVE_BYTES, shutil.disk_usage(self._folder).free // _SHARE)
            if size >= _LEAST_BYTES:
                self._file = _filled(self._folder, size)
        return self._file is not None

    @property
    def lacking(self) -> str:
        """How much space is free, and how much `take` needs, for the user."""
        free, needed = shutil.disk_usage(self._folder).free / (1 << 20), _LEAST_BYTES * _SHARE >> 20
        return (
            f"{free:,.1f} MiB are free, and at least {needed:,} MiB must be, because some of it is kept for answers in flight"
        )

    def release(self) -> bool:
        """Free the space. Returns whether any was held."""
        if self._file is None:
            return False
        self._file.close()
        self._file = None
        return True


def _filled(folder: Path, size: int) -> IO[bytes] | None:
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it stays open
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for _ in range(0, size, _LEAST_BYTES):
                file.write(bytes(_LEAST_BYTES))
            file.flush()
    except OSError:  # another process took the space first
        file.close()
        return None
    return file
