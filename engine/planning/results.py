"""Plans, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from engine.jobs.messages import InputVersion
from engine.planning.inputs import Inputs
from engine.planning.reviews import StepReview
from engine.planning.row_groups import RowGroups
from registry import Draft, Manifest


@dataclass(frozen=True)
class SourcePlan:
    """A source: `HIT` if its version exists, `READ` if it was read and is not committed yet.

    There is a draft if it was read just now, not by an earlier plan.
    `inferred` is its type, if that was taken from the rows; `changed` says how its fields differ from those of its newest
    version; `format` is the format of its rows, None for the own fields of their type.
    """

    name: str
    status: Literal["HIT", "READ"]
    rows: int
    input: InputVersion
    manifest: Manifest | None = None
    draft: Draft | None = None
    rejected: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)
    inferred: str = ""
    changed: tuple[str, ...] = ()
    format: str | None = None


class SharedPrefix(NamedTuple):
    """What the prompts of a step's rows have in common at their beginning, which servers keep in their caches.

    Attributes:
        characters: the length of the longest text that all prompts begin with.
        length: the mean length of the prompts, in characters.
    """

    characters: int
    length: float

    @property
    def share(self) -> float:
        """The part of a prompt that is the same for all rows."""
        return self.characters / self.length if self.length else 0.0


class PromptBounds(BaseModel):
    """Upper bounds of a step from the prompts of its rows. See StepPlan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int
    tokens: int
    cost_usd: float
    shared: dict[str, SharedPrefix]


@dataclass(frozen=True)
class StepPlan:
    """A step: `HIT`, `RUN`, `RESUME` (some partitions have receipts), or `WAIT` (its inputs do not exist yet).

    `done` of `total` partitions are finished; the total is only known if one is. `calls`, `tokens` and `cost_usd` are upper
    bounds for the remaining partitions. Answers in the journal are not requested again, so the true numbers may be smaller.
    `shared` is known of the roles whose first prompts are known.
    A step that waits begins when the steps in `waits_for` are complete, and with the first rows of those in `streams_from`; or
    when enough rows of its `review` are decided.
    """

    name: str
    op: str
    status: Literal["HIT", "RUN", "RESUME", "WAIT"]
    rows: int | None = None
    key: str = ""
    base_key: str = ""
    document: Mapping[str, Any] | None = None
    inputs: Inputs = field(default_factory=dict)
    row_groups: RowGroups = field(default_factory=dict)
    review: StepReview | None = None
    manifests: tuple[Manifest, ...] = ()
    done: int = 0
    total: int | None = None
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    shared: Mapping[str, SharedPrefix] = field(default_factory=dict)
    waits_for: tuple[str, ...] = ()
    streams_from: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def undecided(self) -> int:
        """How many rows people have to decide about before it can run."""
        return self.review.progress.missing if self.review else 0


@dataclass(frozen=True)
class Plan:
    """The plan of a whole pipeline; `identities` are those of the models that it serves itself."""

    pipeline: str
    sources: tuple[SourcePlan, ...]
    steps: tuple[StepPlan, ...]
    identities: Mapping[str, str]

    @property
    def to_run(self) -> tuple[StepPlan, ...]:
        """The steps that are not up to date."""
        return tuple(step for step in self.steps if step.status != "HIT")
