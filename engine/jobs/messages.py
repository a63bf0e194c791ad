"""What a worker is told (a job and a partition) and what it answers (a receipt). Plain data that travels between nodes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.llm.limits.accounting import Spent
from engine.llm.types.model_spec import ModelSpec
from engine.llm.weights import Weights
from registry import DataObject, Metric, SideObject


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
