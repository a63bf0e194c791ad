"""What a run came to, as data; and who is told while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.planning.results import SourcePlan
from registry import Manifest, Metric, StepRun


@dataclass(frozen=True)
class StepOutcome:
    """What a step did in this run, and the versions it stands for.

    `partial` counts what was rejected of rows that are not rejected as a whole (`ctx.reject`); `asks_api` says whether the
    step calls a model behind an API, which may answer differently when it is asked again.
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
    """A run's end: `state` is succeeded, failed or interrupted; `error` is for the user.

    `moves_latest` is false for a trial whose versions are numbered but do not become the latest.
    """

    run_id: str
    pipeline: str
    state: str
    sources: tuple[SourcePlan, ...]
    steps: tuple[StepOutcome, ...]
    seconds: float
    error: str | None = None
    trace: str = ""
    moves_latest: bool = True


class Observer(Protocol):
    """Is told what happens, to show it."""

    def message(self, text: str) -> None:
        """Something worth a line."""

    def step_started(self, step: str, op: str, rows: int, done: int) -> None:
        """A step begins (or resumes with `done` rows)."""

    def step_advanced(self, step: str, done: int, total: int, note: str) -> None:
        """Rows (or an operator's own units) done so far."""

    def step_finished(self, outcome: StepOutcome) -> None:
        """A step hit, ran, resumed or failed."""
