"""The receipts of a step's finished partitions, and the other files in the step's folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from engine.jobs.messages import Partition, Receipt
from registry import Registry
from registry.errors import CorruptError
from registry.storage.checked_json import read_checked_json, write_checked_json
from registry.storage.objects import ObjectStore


@dataclass(frozen=True)
class Receipts:
    """The folder `receipts/<step key>` of a registry."""

    folder: Path
    store: ObjectStore

    @classmethod
    def of(cls, registry: Registry, step_key: str) -> Receipts:
        """The receipts of a step."""
        return cls(registry.receipts / step_key, registry.store)

    @property
    def checkpoints(self) -> Path:
        """The folder for the operator's checkpoints, from which it resumes after a crash."""
        return self.folder / "checkpoints"

    @property
    def stop_mark(self) -> Path:
        """A file that tells workers on every node to begin no further partition."""
        return self.folder / "stop"

    def write(self, receipt: Receipt) -> None:
        """Record durably that a partition is finished. Its objects must be durable already."""
        write_checked_json(self._file(receipt.partition), receipt.model_dump(mode="json"))

    def read(self, partition: Partition) -> Receipt | None:
        """The receipt of a finished partition. None, so that the partition runs again, if it is absent or damaged, was
        written by another version of the engine, or names an object that is missing.
        """
        try:
            receipt = Receipt.model_validate(read_checked_json(self._file(partition)))
        except (FileNotFoundError, CorruptError, ValidationError):
            return None
        return receipt if all(self.store.has(each.sha256, each.bytes) for each in receipt.objects()) else None

    def read_all(self, partitions: Iterable[Partition]) -> tuple[Receipt, ...]:
        """The receipts of those partitions that are finished."""
        return tuple(receipt for each in partitions if (receipt := self.read(each)))

    def forget(self, partition: Partition) -> None:
        """Let a partition run again."""
        self._file(partition).unlink(missing_ok=True)

    def forget_checkpoints(self) -> None:
        """Delete the operator's checkpoints."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def count_attempt(self, partition: Partition) -> int:
        """Count an attempt at a partition; returns how many attempts in this run did not finish."""
        file = self.folder / f"{partition.start}-{partition.stop}.begun"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as marks:
            marks.write(b".")
            return marks.tell() - 1

    def forget_attempts(self) -> None:
        """Reset the counts, at the start of a run."""
        for file in self.folder.glob("*.begun"):
            file.unlink(missing_ok=True)

    def _file(self, partition: Partition) -> Path:
        return self.folder / f"{partition.start}-{partition.stop}.json"
