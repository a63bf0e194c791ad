"""The receipts of finished partitions on disk, and the other files of a step beside them."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from engine.jobs.messages import Partition, Receipt
from registry.errors import CorruptError
from registry.storage.objects import ObjectStore, read_checked_json, write_checked_json


def receipt_path(receipts: Path, step_key: str, partition: Partition) -> Path:
    """Where the receipt of a partition lies."""
    return receipts / step_key / f"{partition.start}-{partition.stop}.json"


def checkpoints(receipts: Path, step_key: str) -> Path:
    """A folder for what an operator wants to find again after a crash."""
    return receipts / step_key / "checkpoints"


def stop_mark(receipts: Path, step_key: str) -> Path:
    """A file that tells workers, on any node, to begin no further partition of a step."""
    return receipts / step_key / "stop"


def count_attempt(receipts: Path, step_key: str, partition: Partition) -> int:
    """Note that a partition is begun; returns how often it was begun before (in this run) and never came to an end."""
    file = receipts / step_key / f"{partition.start}-{partition.stop}.begun"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as marks:
        marks.write(b".")
        return marks.tell() - 1


def forget_attempts(receipts: Path, step_key: str) -> None:
    """Begin counting anew, at the start of a run."""
    for file in (receipts / step_key).glob("*.begun"):
        file.unlink(missing_ok=True)


def write_receipt(receipts: Path, step_key: str, receipt: Receipt) -> None:
    """Note durably that a partition is finished; its objects are durable before."""
    write_checked_json(receipt_path(receipts, step_key, receipt.partition), receipt.model_dump(mode="json"))


def read_receipt(receipts: Path, store: ObjectStore, step_key: str, partition: Partition) -> Receipt | None:
    """The receipt of a finished partition; None when it is absent or damaged or an object is gone: it runs again."""
    try:
        receipt = Receipt.model_validate(read_checked_json(receipt_path(receipts, step_key, partition)))
    except (FileNotFoundError, CorruptError, ValidationError):  # the last: of another version of the engine
        return None
    needed = [part for out in receipt.outputs.values() for part in (out.data, out.lineage, out.calls) if part]
    needed += [*receipt.attachments, *(part for part in (receipt.rejects, receipt.exposure) if part)]
    return receipt if all(store.has(part.sha256, part.bytes) for part in needed) else None
