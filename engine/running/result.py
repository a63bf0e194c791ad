"""The results of runs, as data, and the observers that follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.planning.results import SourcePlan
from registry import Manifest, Metric, StepRun


@dataclass(frozen=True)
class StepResult:
    """What a step did in this run, and the versions of its outputs.

    `partial` counts partial rejects (`ctx.reject`) of rows that were not rejected as a whole. `asks_api`: the step calls a
    model behind an API, which may answer differently the next time.
    """

    record: StepRun
    outputs: tuple[Manifest, ...] = ()
    reasons: tuple[tuple[str, int], ...] = ()
    partial: int = 0
    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()
    asks_api: bool = False


@dataclass(frozen=True)
class RunResult:
    """How a run ended: `state` is succeeded, failed or interrupted; `error` is for the user.

    `moves_latest` is false for a trial: its versions are numbered but do not become the latest.
    """

    run_id: str
    pipeline: str
    state: str
    sources: tuple[SourcePlan, ...]
    steps: tuple[StepResult, ...]
    seconds: float
    error: str | None = None
    trace: str = ""
    moves_latest: bool = True


class Observer(Protocol):
    """Receives the events of a run, to show them."""

    def message(self, text: str) -> None:
        """A line for the user."""

    def step_started(self, step: str, op: str, rows: int, done: int) -> None:
        """A step begins, or resumes with `done` rows."""

    def step_advanced(self, step: str, done: int, total: int, note: str) -> None:
        """Rows, or an operator's own units, done so far."""

    def step_finished(self, result: StepResult) -> None:
        """A step hit, ran, resumed or failed."""
