"""What the driver sends to workers (a job and partitions) and what they return (receipts and failures), as plain data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.llm.limits.accounting import Spent
from engine.llm.types.model_spec import ModelSpec
from engine.llm.weights import ModelWeights
from engine.packages.local_modules import LocalModules
from registry import DataObject, Decision, Metric, ModelUsage, SideObject, VersionRef
from registry.records.described import Described


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
    """A model in a role, as a worker needs it.

    Args:
        name: the model's name in the pipeline.
        identity: the values that determine the model's answers besides the prompt and the sampling parameters.
        spent: the driver's own calls of the model in this run, made to find out what its server can do.
        shared: workers in several processes share its limits and its budget, through the Service.
    """

    name: str
    spec: ModelSpec
    weights: ModelWeights | None
    identity: str
    spent: Spent = Spent()
    shared: bool = False


class Job(Message):
    """What all partitions of one step share.

    Args:
        registry: the location of the registry.
        base_key: see engine/planning/keys.py; the receipts lie under it.
        types: the record types of the operator's inputs: the names of those that packages define, descriptions of others.
        code: the digest of the operator's code on the driver.
        inputs: the versions of the inputs that are passed whole. The rows of the others come with the partitions.
        threads: CPU threads of a worker.
        device: see `devices` of @operator.
        retry_rejects: call the models again for rows that are rejected because of answers in the journal.
        excluded: ids of rows to leave out, by output.
        row_groups: the number of each row's group, by input; see engine/planning/row_groups.py.
        decisions: the decisions of people about the rows; see engine/planning/reviews.py.
        modules: the files of operators that the pipeline names.
    """

    registry: str
    run_id: str
    pipeline: str
    step: str
    base_key: str
    operator: str
    types: dict[str, str | Described]
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
    decisions: tuple[Decision, ...] = ()
    modules: LocalModules = ()


class Slice(Message):
    """Rows [start, stop) of a stored object; `valid` as in InputVersion."""

    sha256: str
    start: int
    stop: int
    valid: bool = False

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


class Partition(Message):
    """A piece of a step's work: a slice of the streamed input, or (for a whole-input operator) everything.

    Args:
        digest: identifies the piece within the step: the content id of the slice's rows, or WHOLE.
        rows: the number of input rows.
        rows_in: the slice; None for a whole-input operator.
        first: the position of its first row in the input, for messages.
    """

    digest: str
    rows: int
    rows_in: Slice | None = None
    first: int = 0


WHOLE = "whole"
"""The digest of the only partition of a whole-input operator."""


class Usage(Message):
    """The model calls of a partition, of all models together and of each. Reused answers are counted and cost nothing."""

    calls: int = 0
    calls_reused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    by_model: dict[str, ModelUsage] = {}

    def __add__(self, other: Usage) -> Usage:
        sums = {name: getattr(self, name) + getattr(other, name) for name in ModelUsage.model_fields}
        models = {**self.by_model}
        for model, used in other.by_model.items():
            models[model] = models[model] + used if model in models else used
        return Usage(**sums, by_model=models)


class OutputPart(Message):
    """The rows of one output from one partition: an object (None: no rows) and side objects with partition-local row numbers.

    Its side objects name an input row by the number of the input among the operator's inputs, and by its place in the
    partition's slice (for the streamed input) or among all rows of an input that is passed whole. So a receipt stays valid when
    rows before the slice are added or removed; the commit turns places into rows of versions.

    Args:
        content_id: the content id of the rows, for a whole-input operator.
        in_place: every row came from the row at the same place of the partition's slice and from no other, so there is no
            object with lineage.
        known_parents: inputs in which rows have known sources.
        rows_without_parent: the number of rows without a known source.
    """

    data: DataObject | None = None
    content_id: str | None = None
    lineage: SideObject | None = None
    in_place: bool = False
    calls: SideObject | None = None
    known_parents: tuple[str, ...] = ()
    rows_without_parent: int = 0


class Receipt(Message):
    """A finished partition of `rows` rows. Every input row produced an output row, was filtered or rejected, or is unused.

    A row is unused if other rows were only compared with it, or if a training ended before it.
    """

    digest: str
    rows: int
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
    notes: tuple[str, ...] = ()

    @property
    def accounted(self) -> int:
        """The number of input rows it accounts for."""
        return self.produced + self.filtered + self.rejected + self.unused

    def objects(self) -> list[DataObject | SideObject]:
        """All objects that it names: rows, and their lineage, calls, rejects and exposure."""
        parts = [each for out in self.outputs.values() for each in (out.data, out.lineage, out.calls)]
        return [each for each in (*parts, self.rejects, self.exposure, *self.attachments) if each]


class Failure(Message):
    """Why a partition did not finish, and what its calls cost.

    A partition is `stopped` if it was cut short because another one failed or the user interrupted the run.
    """

    digest: str
    message: str
    traceback: str = ""
    stopped: bool = False
    usage: Usage = Usage()
