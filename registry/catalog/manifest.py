"""Versions, runs and steps as frozen data. Manifests and run journals are the record; the DuckDB catalog is made from them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    model_validator,
)

from registry.storage.checked_json import json_digest
from registry.storage.ids import RunId, Sha256
from registry.storage.valid_text import repaired

MOST = 2**53 - 1
"""The largest count: the tables can store it and sums of it, and every JSON parser reads it exactly."""

Count = Annotated[int, Field(ge=0, le=MOST)]
"""A number of rows, bytes, calls or tokens."""

Place = Annotated[int, Field(ge=0, le=2**15 - 1)]
"""The index of an input among the inputs of a step, as row lineage stores it."""

Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""The number of a version."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""An amount of dollars or seconds."""


def _a_name(text: str) -> str:
    if not text or len(text) > 400 or "@" in text or ".." in text or not text.isprintable():
        raise ValueError("not the name of a dataset")
    return text


Name = Annotated[str, AfterValidator(_a_name)]
"""The name of a dataset, model, calibration or report."""


def _in_utc(moment: dt.datetime) -> dt.datetime:
    try:
        return moment.astimezone(dt.UTC)
    except (OverflowError, ValueError) as error:
        raise ValueError("a time out of range") from error


Moment = Annotated[dt.datetime, AfterValidator(_in_utc)]
"""A time in UTC."""


def _storable(value: Any) -> Any:
    """The value with all texts in it repaired, so that it can be stored."""
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list | tuple) else value


class Frozen(BaseModel):
    """A frozen piece of a manifest or a journal; unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )


class DataObject(Frozen):
    """A stored Parquet object; its rows follow those of the object before it.

    Args:
        bytes: the size of the object on disk.
        memory: the size of its rows in memory (0: unknown).
    """

    sha256: Sha256
    rows: Count
    bytes: Count
    memory: Count = 0


class VersionRef(Frozen):
    """A version by name and number (0: not committed yet), and its content id."""

    name: Name
    version: Annotated[int, Field(ge=0, le=2**31 - 1)]
    content_id: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Metric(Frozen):
    """A number that an operator reported, for the part named by `slice` (a verdict, a training step) or for everything."""

    metric: str
    value: float
    slice: str = ""

    @field_serializer("value", when_used="json")
    def _json_value(self, value: float) -> float | str:
        # JSON has no infinity, but a threshold of +inf and a loss of NaN are valid results.
        return value if math.isfinite(value) else str(value)


class SideObject(Frozen):
    """A Parquet object that belongs to a version's rows.

    Args:
        kind: `lineage` (parents of rows), `calls` (model calls that made rows), `rejects` (parent rows left out),
            `exposure` (rows that a trainer saw).
        base: the offset of the object's own row numbers.
    """

    kind: Literal["lineage", "calls", "rejects", "exposure"]
    sha256: Sha256
    rows: Count
    bytes: Count
    base: Count = 0


class Draft(Frozen):
    """A version before the registry has numbered it.

    `rows_in`, `filtered`, `rejected` and `unused` account for the step's input rows; all others produced output.

    Args:
        opaque: indices of inputs whose rows are not known to correspond to rows of this version.
        broadcast_inputs: indices of inputs that were passed whole to an operator that works row by row.
        files: the files that a source was read from, as the pipeline names them.
    """

    name: Name
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
    opaque: tuple[Place, ...] = ()
    # Stored as `beside`, its name in earlier versions.
    broadcast_inputs: tuple[Place, ...] = Field(default=(), validation_alias="beside", serialization_alias="beside")
    data: tuple[DataObject, ...] = ()
    side: tuple[SideObject, ...] = ()
    attachments: tuple[DataObject, ...] = ()
    metrics: tuple[Metric, ...] = ()
    rows_in: Count = 0
    filtered: Count = 0
    rejected: Count = 0
    unused: Count = 0
    files: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _sums_fit(self) -> Self:
        if self.rows > MOST or self.bytes > MOST:
            raise ValueError("more rows or bytes than can be counted")
        return self

    @property
    def variant(self) -> str:
        """The variant of the pipeline's matrix that it belongs to, from its name `<pipeline>/<variant>/<step>`; empty: none."""
        own = self.name.removeprefix(f"{self.pipeline}/")
        found = own.rpartition("/")[0] if own != self.name else ""
        return found if "=" in found else ""

    @property
    def version_id(self) -> str:
        """The version's identity: the same name, step key and content are the same version."""
        return json_digest([self.name, self.step_key, self.output, self.content_id])

    def objects(self) -> tuple[DataObject | SideObject, ...]:
        """All objects of the version."""
        return tuple(part for _, part in self.objects_by_use())

    def objects_by_use(self) -> Iterator[tuple[str, DataObject | SideObject]]:
        """The same, each with what it is used for."""
        yield "key document", self.key_object
        yield from (("rows", part) for part in self.data)
        yield from ((part.kind, part) for part in self.side)
        yield from (("files", part) for part in self.attachments)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(data.rows for data in self.data)

    @property
    def bytes(self) -> int:
        """Size of the data objects and attachments in bytes."""
        return sum(part.bytes for part in (*self.data, *self.attachments))


class Manifest(Draft):
    """A committed version, as stored in `manifests/<version_id>.json`."""

    version: Number
    run_id: RunId
    created_at: Moment

    @property
    def ref(self) -> VersionRef:
        """The version as an input of another step."""
        return VersionRef(name=self.name, version=self.version, content_id=self.content_id)


class ModelUsage(Frozen):
    """The calls of one model. Tokens and cost are those of the calls that were sent; reused answers cost nothing."""

    calls: Count = 0
    calls_reused: Count = 0
    tokens_in: Count = 0
    tokens_out: Count = 0
    cost_usd: Amount = 0.0

    def __add__(self, other: ModelUsage) -> ModelUsage:
        return ModelUsage(**{name: getattr(self, name) + getattr(other, name) for name in ModelUsage.model_fields})


class StepRun(Frozen):
    """A step in one run. Calls, tokens and cost are those of this run; reused answers cost nothing.

    Args:
        outcome: `hit` (its outputs were there), `ran`, `resumed` (from partitions of an earlier run), `failed`, `stopped` (it
            was under way when another step failed or the run was interrupted; its finished partitions are kept), or `waiting`
            (people have to decide about its rows first; the next run continues).
        seconds: wall time.
        started_at: when it started. Engines before 0.4 did not record this.
        ended_at: when it ended, whatever the outcome.
        waited_for: what it waited for last before it started: the name of a step or dataset that had to finish first,
            `resources`, `servers`, `reviews`, or `another run`. Empty: nothing.
        variant: the variant of the pipeline's matrix that it belongs to; empty: none.
        why: why it ran, as `engine plan --why` says it; empty for a hit.
        notes: messages about it that the user saw.
        by_model: the calls by model, as the view `llm_calls` names them. Engines before 0.4 recorded none of these three.
        reject_reasons: the most frequent reasons of its rejects, each with its number of rows, if it failed. If it did not, its
            outputs have all rejects.
        reject_rows: for each of these reasons some of the rows: name and number of the version, and the row. Empty where the
            versions were not committed.
    """

    step: str
    op: str
    outcome: Literal["hit", "ran", "resumed", "failed", "stopped", "waiting"]
    rows_in: Count = 0
    rows_out: Count = 0
    filtered: Count = 0
    rejected: Count = 0
    unused: Count = 0
    calls: Count = 0
    calls_reused: Count = 0
    tokens_in: Count = 0
    tokens_out: Count = 0
    cost_usd: Amount = 0.0
    seconds: Amount = 0.0
    started_at: Moment | None = None
    ended_at: Moment | None = None
    waited_for: str = ""
    variant: str = ""
    why: Annotated[tuple[str, ...], BeforeValidator(_storable)] = ()
    notes: Annotated[tuple[str, ...], BeforeValidator(_storable)] = ()
    by_model: Annotated[dict[str, ModelUsage], BeforeValidator(_storable)] = {}
    reject_reasons: Annotated[tuple[tuple[str, Count], ...], BeforeValidator(_storable)] = ()
    reject_rows: tuple[tuple[tuple[Name, Number, Count], ...], ...] = ()

    @property
    def full_step(self) -> str:
        """The step with its variant, which no other step of the run has."""
        return f"{self.variant}/{self.step}" if self.variant else self.step


class Hit(NamedTuple):
    """A step that used existing outputs: its record, and those versions."""

    step: StepRun
    versions: tuple[Manifest, ...]


class Event(Frozen):
    """One line of `runs/<run_id>.ndjson`: the start or end of a run, or a finished step."""

    event: Literal["started", "step", "ended"]
    at: Moment
    run_id: RunId
    pipeline: str = ""
    state: Literal["running", "succeeded", "failed", "interrupted", "waiting"] = "running"
    error: Annotated[str | None, BeforeValidator(_storable)] = None
    step: StepRun | None = None
    refs: dict[Name, Number] = {}
    source: Annotated[dict[str, Any], BeforeValidator(_storable)] = {}


class Pin(Frozen):
    """A version that is kept for good."""

    name: Name
    version: Number
    pinned_at: Moment


class UsedNumber(Frozen):
    """The highest version number that a name ever had, when that version has been removed."""

    name: Name
    version: Number


def unfit(error: ValidationError) -> str:
    """Why an undamaged document cannot be used: another version wrote it, or the tables cannot store a value."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] in ("extra_forbidden", "missing", "literal_error"):
        return "was written by another version of the engine and cannot be read by this one"
    where = ".".join(map(str, first["loc"]))
    return f"contains a value that the registry cannot store ({where}: {first['msg'].removeprefix('Value error, ')})"
