"""The results of runs, as data, and the observers that follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.planning.results import SourcePlan
from engine.planning.reviews import StepReview
from registry import Manifest, Metric, StepRun


@dataclass(frozen=True)
class StepResult:
    """What a step did in this run, and the versions of its outputs.

    `partial` counts partial rejects (`ctx.reject`) of rows that were not rejected as a whole. `asks_api`: the step calls a
    model behind an API, which may answer differently the next time. `review`: the review that it waits for.
    """

    record: StepRun
    outputs: tuple[Manifest, ...] = ()
    reasons: tuple[tuple[str, int], ...] = ()
    partial: int = 0
    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()
    asks_api: bool = False
    review: StepReview | None = None


@dataclass(frozen=True)
class RunResult:
    """How a run ended: `state` is succeeded, failed, interrupted, or waiting (for people to decide about rows).

    `error` is for the user: why each step that failed did so, one below the other. `moves_latest` is false for a trial: its
    versions are numbered but do not become the latest.
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
    """Receives the events of a run, to show them.

    Several steps may be under way at once, so events of different steps come in any order and from any thread. Those of one
    step come in order: it starts, advances, and finishes. A step that hits finishes without having started.
    """

    def message(self, text: str) -> None:
        """Show a line of text to the user."""

    def step_started(self, step: str, op: str, rows: int, done: int) -> None:
        """A step begins, or resumes with `done` rows.

        `rows` are its input rows so far: there may be more while the steps before it are still making its input.
        """

    def step_advanced(self, step: str, done: int, total: int, note: str) -> None:
        """`done` of `total` rows, or of an operator's own units, are done.

        `total` may be larger than before, and than the `rows` of the start: it grows while the step's input is still being
        made. `note` says what the step is waiting for, or is empty.
        """

    def step_finished(self, result: StepResult) -> None:
        """A step hit, ran, resumed, failed, was stopped or waits for a review; no more events of it follow."""
