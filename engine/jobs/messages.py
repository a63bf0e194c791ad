"""What a worker is told (a job and a partition) and what it answers (a receipt). Plain data that travels between nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Spent
from engine.llm.weights import Weights
from registry import DataObject, Metric, SideObject
from registry.storage.objects import CorruptError, ObjectStore, read_checked_json, write_checked_json


class Travelling(BaseModel):
    """Frozen data sent to workers and stored in receipts."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class InputPart(Travelling):
    """One version that an input is made of; `number` is its place among all the step's inputs."""

    number: int
    data: tuple[DataObject, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.data)


class ModelBinding(Travelling):
    """A model in a role, as a worker needs it; `spent` is by the run so far."""

    name: str
    spec: ModelSpec
    weights: Weights | None
    identity: str
    spent: Spent = Spent()


class Job(Travelling):
    """All that the partitions of one step share.

    Args:
        registry: its location.
        types: the record types of the operator's inputs.
        code: the digest of the operator's code as the driver has it.
        threads: CPU threads of a worker.
        device: see `devices` of @operator.
        retry_rejects: for rows that answers in the journal make rejects, the model is asked anew.
        excluded: ids of rows, by output, that are left out.
        families: see engine/families.py.
    """

    registry: str
    run_id: str
    pipeline: str
    step: str
    step_key: str
    operator: str
    types: dict[str, str]
    code: str
    params: dict[str, Any]
    inputs: dict[str, tuple[InputPart, ...]]
    models: dict[str, ModelBinding]
    seed: int
    threads: int = 1
    device: dict[str, float] = {}
    retry_rejects: bool = False
    excluded: dict[str, frozenset[str]] = {}
    families: dict[str, tuple[int, ...]] = {}


class Partition(Travelling):
    """Rows [start, stop) of the input that comes row by row; of a whole-input operator, all of it."""

    start: int
    stop: int


class Usage(Travelling):
    """What a partition's model calls came to; reused answers are counted and cost nothing."""

    calls: int = 0
    calls_reused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})


class OutputPart(Travelling):
    """One output of one partition: its object (None: no rows), and its side objects with partition-local row numbers.

    Args:
        told: inputs that rows are known to come from.
        orphans: rows of which no source is known.
    """

    data: DataObject | None = None
    lineage: SideObject | None = None
    calls: SideObject | None = None
    told: tuple[str, ...] = ()
    orphans: int = 0


class Receipt(Travelling):
    """A finished partition. Every input row led to an output, was filtered or rejected, or is unused.

    A row is unused when the step only compared others with it, or when a training ended before it came to it.
    """

    partition: Partition
    outputs: dict[str, OutputPart]
    rejects: SideObject | None = None
    exposure: SideObject | None = None
    attachments: tuple[DataObject, ...] = ()
    led: int
    filtered: int
    rejected: int
    unused: int = 0
    counts: tuple[Metric, ...] = ()
    values: tuple[Metric, ...] = ()
    usage: Usage = Usage()
    spent: dict[str, Spent] = {}
    notes: tuple[str, ...] = ()


class Failure(Travelling):
    """Why a partition did not finish, and what its calls came to all the same.

    `stopped` partitions were not to be finished, because another one had failed or the user had said so.
    """

    partition: Partition
    message: str
    traceback: str = ""
    stopped: bool = False
    usage: Usage = Usage()
    spent: dict[str, Spent] = {}


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


PARTITION_BYTES = 16 << 20
"""Of a partition's rows in memory, at most; a worker holds them a few times over."""


def partitions(rows: int, memory: int, shape: str, calls_models: bool) -> list[Partition]:
    """Split a step's rows. The split depends on nothing but these, so that an interrupted run finds its receipts.

    Small partitions lose little when a worker dies, and keep several workers busy; large ones cost less for each row.
    There are never many more than 500 of them, unless rows are long.

    Args:
        memory: the size of all rows in memory (0: not known).
    """
    if shape == "whole":
        return [Partition(start=0, stop=rows)]
    least = min(64, max(16, rows // 32)) if calls_models else 1024
    size = max(least, -(-rows // 512))
    if memory:
        size = min(size, max(1, rows * PARTITION_BYTES // memory))
    return [Partition(start=start, stop=min(rows, start + size)) for start in range(0, rows, size)]
