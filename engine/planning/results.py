"""Plans as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.planning.inputs import Input
from engine.planning.row_groups import Families
from registry import Draft, Manifest


@dataclass(frozen=True)
class SourcePlan:
    """A source: `HIT` when its version is there, `READ` when it was read just now (and is not committed yet)."""

    name: str
    status: Literal["HIT", "READ"]
    rows: int
    input: Input
    manifest: Manifest | None = None
    draft: Draft | None = None
    rejected: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StepPlan:
    """A step: `HIT`, `RUN`, `RESUME` (some partitions are done), or `WAIT` (its inputs are not made yet).

    Calls and tokens are upper bounds for what is left to do; answers in the journal are not asked for again and make
    the true number smaller.
    """

    name: str
    op: str
    status: Literal["HIT", "RUN", "RESUME", "WAIT"]
    rows: int | None = None
    done: int = 0
    total: int = 0
    key: str = ""
    document: Mapping[str, Any] | None = None
    manifests: tuple[Manifest, ...] = ()
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    waits_for: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    families: Families = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The plan of a whole pipeline."""

    pipeline: str
    sources: tuple[SourcePlan, ...]
    steps: tuple[StepPlan, ...]
