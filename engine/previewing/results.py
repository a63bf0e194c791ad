"""Previews and forecasts, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from registry import Metric


@dataclass(frozen=True)
class PreviewCall:
    """A model call that a row made. `latency_ms` and `cost_usd` are those of the answer, whenever it was paid for."""

    call_id: str
    role: str
    model: str
    messages: tuple[Mapping[str, Any], ...]
    response: str
    tokens_in: int
    tokens_out: int
    latency_ms: float
    cost_usd: float


@dataclass(frozen=True)
class PreviewRow:
    """What a step did with one of its input rows, or with all of them (`input` is None).

    Args:
        seeds: the numbers of the sampled rows that it came from, over all sources.
        outputs: the output's name and the row, for each row that was made.
        rejected: why it was rejected as a whole.
        partly_rejected: why parts of its result were left out.
    """

    seeds: tuple[int, ...]
    input: Mapping[str, Any] | None
    calls: tuple[PreviewCall, ...]
    outputs: tuple[tuple[str, Mapping[str, Any]], ...]
    rejected: str | None = None
    partly_rejected: tuple[str, ...] = ()


StepState = Literal["previewed", "up to date", "skipped", "waits", "not reached", "stopped", "failed"]


@dataclass(frozen=True)
class PreviewStep:
    """A step in a preview.

    `state`: `previewed`, `up to date` (the registry has its outputs), `skipped`, `waits` (for reviewers), `not reached`,
    `stopped` or `failed`; `why` is for the last five. `rows_out` is by output. `calls` are new, `calls_reused` were in the
    journal.
    """

    name: str
    op: str
    state: StepState
    why: str = ""
    rows_in: int = 0
    rows_out: Mapping[str, int] = field(default_factory=dict)
    filtered: int = 0
    rejected: int = 0
    unused: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    calls: int = 0
    calls_reused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    rows: tuple[PreviewRow, ...] = ()
    notes: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()


class Sampled(NamedTuple):
    """A version of which rows were drawn: a dataset, or outputs that are up to date."""

    name: str
    rows: int
    drawn: int


class Interval(NamedTuple):
    """An amount as it is expected, and its 80 % interval."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class StepForecast:
    """What the run will take for a step, beyond the answers that are in the journal. None: not known.

    Args:
        rows: input rows, among them those of the preview.
        calls, tokens_in, tokens_out, cost_usd: the amounts that are still to be paid for.
        seconds: the time that the step takes by itself.
        basis: what the forecast comes from: a preview or an earlier version, in words.
    """

    name: str
    op: str
    rows: Interval | None = None
    calls: Interval | None = None
    tokens_in: Interval | None = None
    tokens_out: Interval | None = None
    cost_usd: Interval | None = None
    seconds: Interval | None = None
    basis: str = ""


@dataclass(frozen=True)
class Forecast:
    """What a run will take: by step, and in all. `unknown` are steps about which nothing is known; they are not in the sums."""

    steps: tuple[StepForecast, ...]
    calls: Interval
    tokens: Interval
    cost_usd: Interval
    seconds: Interval
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preview:
    """A preview: `state` is done, failed or interrupted; `error` is for the user."""

    pipeline: str
    rows: int
    state: Literal["done", "failed", "interrupted"]
    sampled: tuple[Sampled, ...]
    steps: tuple[PreviewStep, ...]
    forecast: Forecast | None
    seconds: float
    error: str | None = None
    trace: str = ""
