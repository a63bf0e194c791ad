"""The files in `receipts/<base key>` from which steps resume: receipts of finished partitions, checkpoints and marks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from engine.jobs.receipts import COMMITTED, Receipts
from registry import CorruptError, ObjectStore, Registry
from registry.storage import plain_files
from registry.storage.checked_json import read_checked_json
from registry.storage.shared_lock import SharedLock
from registry.upkeep.gc import StepFiles


def step_folders(registry: Registry, oldest: float) -> list[StepFiles]:
    """The folders of all base keys, for garbage collection; `oldest` as in StepFolder."""
    return [StepFolder(folder, registry.store, oldest) for folder in plain_files.folders(registry.receipts)]


class StepFolder:
    """The folder of one base key. See registry.upkeep.gc.StepFiles.

    Args:
        store: the store of the objects that the receipts name.
        oldest: a time (seconds since 1970); younger files count as in use.
    """

    def __init__(self, folder: Path, store: ObjectStore, oldest: float) -> None:
        self._folder = folder
        self.where = f"{folder.parent.name}/{folder.name}"
        files = [about for path in self._entries() for about in _files(path)]
        keys, digests = Receipts(folder, store).committed()
        # The base key of an operator on whole inputs, and any key before 0.4, is the key of the step itself.
        self.step_keys = keys | {folder.name}
        receipts = [path.stem for path in folder.glob("*.json") if path.name != COMMITTED]
        self.unfinished = bool(keys) and not digests.issuperset(receipts)
        self.bytes = sum(about.st_size for about in files)
        self.checkpoint_bytes = sum(about.st_size for each in plain_files.folders(folder) for about in plain_files.files(each))
        # Checkpoints are deleted after the commit.
        self.committed = bool(keys) and not self.unfinished and not self.checkpoint_bytes
        # A run joins the folder's lock before it reads receipts, and keeps it.
        self.in_use = any(about.st_mtime > oldest for about in files) or self._is_locked()

    @cached_property
    def objects(self) -> frozenset[str]:
        """The objects that the receipts name."""
        return frozenset(sha256 for path in self._folder.glob("*.json") for sha256 in _named(path))

    def remove(self, *, run_is_live: bool) -> bool:
        """Remove the files, unless a run is making the step; returns whether they were removed."""
        lock = self._try_lock()
        if lock is None:
            return False
        with lock:
            for each in self._entries():
                if plain_files.kind(each) == "a folder":
                    shutil.rmtree(each)
                else:
                    each.unlink()
            if not run_is_live:
                # A live run may be about to take the lock.
                shutil.rmtree(self._folder)
        return True

    def _entries(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.name != "lock"]

    def _try_lock(self) -> IO[bytes] | None:
        return SharedLock(self._folder / "lock", f"a run works with {self.where}").try_to_take()

    def _is_locked(self) -> bool:
        if not plain_files.kind(self._folder / "lock"):
            return False
        if lock := self._try_lock():
            lock.close()
        return lock is None


def _files(path: Path) -> Iterator[os.stat_result]:
    """A file, or the files in a folder."""
    if plain_files.kind(path) == "a folder":
        yield from plain_files.files(path)
        return
    with suppress(FileNotFoundError):
        yield path.lstat()


def _named(path: Path) -> Iterator[str]:
    """The objects that a receipt names, even if another version of the engine wrote it; none if it is damaged, because its
    partition runs again.
    """
    waiting: list[Any] = []
    with suppress(CorruptError, FileNotFoundError):
        waiting.append(read_checked_json(path))
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(sha256 := value.get("sha256"), str):
                yield sha256
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
