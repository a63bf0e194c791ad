"""What the driver sends to workers (a job and partitions) and what they return (receipts and failures), as plain data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.llm.limits.accounting import Spent
from engine.llm.types.model_spec import ModelSpec
from engine.llm.weights import ModelWeights
from registry import DataObject, Metric, SideObject, VersionRef


class Message(BaseModel):
    """Frozen data that travels between nodes or is stored in receipts; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class InputVersion(Message):
    """A version that is part of an input: committed, or (with number 0) only read and not yet committed.

    Args:
        valid: this run's code has validated its rows as the input's record type, so workers do not validate them again.
    """

    ref: VersionRef
    data: tuple[DataObject, ...]
    valid: bool = False

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(each.rows for each in self.data)


class ModelBinding(Message):
    """A model in a role, as a worker needs it; `spent` is what the run had spent on it before the job."""

    name: str
    spec: ModelSpec
    weights: ModelWeights | None
    identity: str
    spent: Spent = Spent()


class Job(Message):
    """What all partitions of one step share.

    Args:
        registry: its location.
        types: the record types of the operator's inputs.
        code: the digest of the operator's code on the driver.
        inputs: in the order in which lineage numbers the versions.
        threads: CPU threads of a worker.
        device: see `devices` of @operator.
        retry_rejects: call the models again for rows that are rejected because of answers in the journal.
        excluded: ids of rows to leave out, by output.
        row_groups: the number of each row's group, by input; see engine/planning/row_groups.py.
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
    inputs: dict[str, tuple[InputVersion, ...]]
    models: dict[str, ModelBinding]
    seed: int
    threads: int = 1
    device: dict[str, float] = {}
    retry_rejects: bool = False
    excluded: dict[str, frozenset[str]] = {}
    row_groups: dict[str, tuple[int, ...]] = {}


class Partition(Message):
    """Rows [start, stop) of the streamed input; for a whole-input operator, all rows."""

    start: int
    stop: int


class Usage(Message):
    """The model calls of a partition. Reused answers are counted and cost nothing."""

    calls: int = 0
    calls_reused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})


class OutputPart(Message):
    """The rows of one output from one partition: an object (None: no rows) and side objects with partition-local row numbers.

    Args:
        content_id: of the rows, if the partition is the whole step.
        known_parents: inputs in which rows have known sources.
        rows_without_parent: the number of rows without a known source.
    """

    data: DataObject | None = None
    content_id: str | None = None
    lineage: SideObject | None = None
    calls: SideObject | None = None
    known_parents: tuple[str, ...] = ()
    rows_without_parent: int = 0


class Receipt(Message):
    """A finished partition. Every input row produced an output row, was filtered or rejected, or is unused.

    A row is unused if other rows were only compared with it, or if a training ended before it.
    """

    partition: Partition
    outputs: dict[str, OutputPart]
    rejects: SideObject | None = None
    exposure: SideObject | None = None
    attachments: tuple[DataObject, ...] = ()
    produced: int
    filtered: int
    rejected: int
    unused: int = 0
    counts: tuple[Metric, ...] = ()
    values: tuple[Metric, ...] = ()
    usage: Usage = Usage()
    spent: dict[str, Spent] = {}
    notes: tuple[str, ...] = ()

    @property
    def accounted(self) -> int:
        """The number of input rows it accounts for."""
        return self.produced + self.filtered + self.rejected + self.unused

    def objects(self) -> list[DataObject | SideObject]:
        """All objects it names."""
        parts = [each for out in self.outputs.values() for each in (out.data, out.lineage, out.calls)]
        return [each for each in (*parts, self.rejects, self.exposure, *self.attachments) if each]


class Failure(Message):
    """Why a partition did not finish, and what its calls cost.

    A partition is `stopped` if it was cut short because another one failed or the user interrupted the run.
    """

    partition: Partition
    message: str
    traceback: str = ""
    stopped: bool = False
    usage: Usage = Usage()
    spent: dict[str, Spent] = {}
