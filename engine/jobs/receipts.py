"""The receipts of finished partitions, by base key, and the other files in the folder of a base key."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from engine.jobs.messages import Receipt
from registry import Registry
from registry.errors import CorruptError
from registry.storage.checked_json import read_checked_json, write_checked_json
from registry.storage.objects import ObjectStore

COMMITTED = "committed.json"
"""The file that names the steps committed from a folder's receipts, and these receipts."""


Stamp = tuple[int, int]
"""Which file it is, and when it was written."""


@dataclass(frozen=True)
class Receipts:
    """The folder `receipts/<base key>` of a registry."""

    folder: Path
    store: ObjectStore

    @classmethod
    def of(cls, registry: Registry, base_key: str) -> Receipts:
        """The receipts under a base key."""
        return cls(registry.receipts / base_key, registry.store)

    @property
    def checkpoints(self) -> Path:
        """The folder for the operator's checkpoints, from which it resumes after a crash."""
        return self.folder / "checkpoints"

    @property
    def exist(self) -> bool:
        """Whether any step with this base key has begun."""
        return self.folder.is_dir()

    def write(self, receipt: Receipt) -> None:
        """Record durably that a partition is finished. Its objects must be durable already."""
        write_checked_json(self._file(receipt.digest), receipt.model_dump(mode="json"))

    def read(self, digest: str) -> Receipt | None:
        """The receipt of a finished partition. None, so that the partition runs again, if it is absent or damaged, was
        written by another version of the engine, or names an object that is missing.
        """
        try:
            receipt = Receipt.model_validate(read_checked_json(self._file(digest)))
        except (FileNotFoundError, CorruptError, ValidationError):
            return None
        return receipt if all(self.store.has(each.sha256, each.bytes) for each in receipt.objects()) else None

    def stamp(self, digest: str) -> Stamp | None:
        """Identifies the present file of a receipt, so that a replacement is noticed; None if there is no receipt."""
        with contextlib.suppress(FileNotFoundError):
            found = self._file(digest).stat()
            return found.st_ino, found.st_mtime_ns
        return None

    def forget(self, digest: str) -> None:
        """Remove the receipt of a partition, so that it runs again."""
        self._file(digest).unlink(missing_ok=True)

    def forget_checkpoints(self) -> None:
        """Delete the operator's checkpoints."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def mark_committed(self, step_key: str, digests: Iterable[str]) -> None:
        """Note durably that a step with this key is about to be committed from these receipts."""
        keys, known = self.committed()
        document = {"step_keys": sorted({*keys, step_key}), "digests": sorted({*known, *digests})}
        write_checked_json(self.folder / COMMITTED, document)

    def committed(self) -> tuple[frozenset[str], frozenset[str]]:
        """The keys of the steps that were committed from receipts here, and the digests of these."""
        try:
            document = read_checked_json(self.folder / COMMITTED)
            return frozenset(map(str, document["step_keys"])), frozenset(map(str, document["digests"]))
        except (FileNotFoundError, CorruptError, KeyError, TypeError):
            return frozenset(), frozenset()

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest}.json"
