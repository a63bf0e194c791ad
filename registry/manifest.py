"""What the registry remembers of a version, a run and a step, as frozen data. Manifests and run journals are the truth;
the DuckDB catalog is made from them.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_serializer

from registry.store import json_digest


class Frozen(BaseModel):
    """A frozen piece of a manifest or a journal; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataObject(Frozen):
    """A stored Parquet object: its rows follow those of the object before it.

    Args:
        bytes: its size on disk.
        memory: the size of its rows in memory (0: not known).
    """

    sha256: str
    rows: int
    bytes: int
    memory: int = 0


class VersionRef(Frozen):
    """A version, by name and number; `content_id` says what it holds."""

    name: str
    version: int
    content_id: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Metric(Frozen):
    """A number that an operator reported; `slice` says of what part (a verdict, a training step), or is empty."""

    metric: str
    value: float
    slice: str = ""

    @field_serializer("value", when_used="json")
    def _json_value(self, value: float) -> float | str:
        # JSON has no infinity; a threshold of +inf and a loss of NaN are results all the same.
        return value if math.isfinite(value) else str(value)


class SideObject(Frozen):
    """A Parquet object that belongs to a version's rows.

    Args:
        kind: `lineage` (parents of rows), `calls` (model calls that made rows), `rejects` (parent rows left out),
            `exposure` (rows that a trainer saw).
        base: to be added to the object's own row numbers.
    """

    kind: Literal["lineage", "calls", "rejects", "exposure"]
    sha256: str
    rows: int
    bytes: int
    base: int = 0


class Draft(Frozen):
    """A version as a step made it, before the registry gave it a number.

    `rows_in`, `filtered`, `rejected` and `unused` account for the step's input rows; the rest of them led to an output.

    Args:
        opaque: places in `inputs` of those of which it is not known which rows led to which row of this version.
        beside: places in `inputs` of those that the operator was given whole while others came row by row.
        files: the files that a source was read from, as the pipeline names them.
    """

    name: str
    kind: str
    type: str
    fields: dict[str, str]
    content_id: str
    pipeline: str
    step: str
    op: str
    output: str
    step_key: str
    key_object: DataObject
    inputs: tuple[VersionRef, ...] = ()
    models: tuple[VersionRef, ...] = ()
    opaque: tuple[int, ...] = ()
    beside: tuple[int, ...] = ()
    data: tuple[DataObject, ...] = ()
    side: tuple[SideObject, ...] = ()
    attachments: tuple[DataObject, ...] = ()
    metrics: tuple[Metric, ...] = ()
    rows_in: int = 0
    filtered: int = 0
    rejected: int = 0
    unused: int = 0
    files: tuple[str, ...] = ()

    @property
    def version_id(self) -> str:
        """The version's identity: the same step key and content under the same name are the same version."""
        return json_digest([self.name, self.step_key, self.output, self.content_id])

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(data.rows for data in self.data)

    @property
    def bytes(self) -> int:
        """Size of the data objects and attachments in bytes."""
        return sum(part.bytes for part in (*self.data, *self.attachments))


class Manifest(Draft):
    """A committed version, as it stands in `manifests/<version_id>.json`."""

    version: int
    run_id: str
    created_at: dt.datetime

    @property
    def ref(self) -> VersionRef:
        """The version as an input of another step."""
        return VersionRef(name=self.name, version=self.version, content_id=self.content_id)


class StepRun(Frozen):
    """What a step did in one run. Calls, tokens and cost are those of this run; reused answers cost nothing."""

    step: str
    op: str
    outcome: Literal["hit", "ran", "resumed", "failed"]
    rows_in: int = 0
    rows_out: int = 0
    filtered: int = 0
    rejected: int = 0
    unused: int = 0
    calls: int = 0
    calls_reused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


class Event(Frozen):
    """One line of `runs/<run_id>.ndjson`."""

    event: Literal["started", "step", "ended"]
    at: dt.datetime
    run_id: str
    pipeline: str = ""
    state: Literal["running", "succeeded", "failed", "interrupted"] = "running"
    error: str | None = None
    step: StepRun | None = None
    refs: dict[str, int] = {}
    source: dict[str, Any] = {}
