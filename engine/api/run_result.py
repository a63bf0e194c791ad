"""What `engine.run` returns, and what it raises if the run did not succeed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from engine.api import html
from engine.api.dataset import Dataset
from engine.api.names import Named
from engine.api.open_registry import OpenRegistry
from engine.cli.plan_view import review_document
from engine.cli.run_view import run_document
from engine.errors import EngineError
from engine.plain_values import plain
from engine.running.result import RunResult
from registry import Registry, StepRun

State = Literal["succeeded", "failed", "interrupted", "waiting"]

_SHOWN = (
    "step",
    "op",
    "outcome",
    "rows_in",
    "rows_out",
    "filtered",
    "rejected",
    "calls",
    "calls_reused",
    "cost_usd",
    "seconds",
)


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run that has ended.

    Attributes:
        run_id: as in `engine runs`.
        pipeline: the pipeline's name.
        state: `succeeded`, `failed`, `interrupted`, or `waiting` until people have reviewed enough rows: then run it again.
        error: why the run did not succeed: the reason for each failed step. None if the run succeeded.
        seconds: wall time.
        moved_latest: whether the new versions became the latest: not those of a trial with other parameters, nor those of a
            run that did not succeed.
        outputs: the versions that its steps made or found up to date, by the names that a pipeline uses: `step`, or
            `step.output` where a step has several outputs.
        steps: the records of its steps, by name: outcome, rows, calls, price and so on, as in the view `step_runs`.
        reject_reasons: step -> reason -> number of rejected rows.
        notes: step -> what users should know about it.
        reviews: step -> the review that it waits for, as in `engine run --json`: `queue`, and how many `rows` there are, how
            many are `decided`, how many are `needed` in all, and how many are `missing`.
        registry: the registry with the results.
    """

    run_id: str
    pipeline: str
    state: State
    error: str | None
    seconds: float
    moved_latest: bool
    outputs: Mapping[str, Dataset]
    steps: Mapping[str, StepRun]
    reject_reasons: Mapping[str, Mapping[str, int]]
    notes: Mapping[str, tuple[str, ...]]
    reviews: Mapping[str, Mapping[str, Any]]
    registry: OpenRegistry
    _result: RunResult

    @classmethod
    def of(cls, result: RunResult, where: OpenRegistry, registry: Registry) -> Run:
        """A run's result with handles for its outputs."""
        made = {
            manifest.name.removeprefix(f"{result.pipeline}/"): Dataset(registry, manifest)
            for step in result.steps
            for manifest in step.outputs
        }
        by_name = {step.record.full_step: step for step in result.steps}
        return cls(
            run_id=result.run_id,
            pipeline=result.pipeline,
            state=cast(State, result.state),
            error=result.error,
            seconds=result.seconds,
            moved_latest=result.moves_latest and result.state == "succeeded",
            outputs=Named("output", made),
            steps=Named("step", {name: step.record for name, step in by_name.items()}),
            reject_reasons=Named("step", {name: MappingProxyType(dict(step.reasons)) for name, step in by_name.items()}),
            notes=Named("step", {name: step.notes for name, step in by_name.items()}),
            reviews=Named("step", {name: review_document(step.review) or {} for name, step in by_name.items() if step.review}),
            registry=where,
            _result=result,
        )

    def raise_for_failure(self) -> None:
        """Raise RunError unless the run succeeded, or waits for reviews."""
        if self.state not in ("succeeded", "waiting"):
            raise RunError(self)

    def as_dict(self) -> dict[str, Any]:
        """The run as plain data: the same as `engine run --json`."""
        document: dict[str, Any] = plain(run_document(self._result))
        return document

    def __repr__(self) -> str:
        return f"<run {self.run_id} of {self.pipeline}: {self._summary}>"

    def _repr_html_(self) -> str:
        rows = [record.model_dump() for record in self.steps.values()]
        return html.table(f"{self.pipeline}: {self._summary}", _SHOWN, rows, self.error or "")

    @property
    def _summary(self) -> str:
        counts: dict[str, int] = {}
        for record in self.steps.values():
            shown = "unchanged" if record.outcome == "hit" else record.outcome
            counts[shown] = counts.get(shown, 0) + 1
        listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return f"{self.state} in {self.seconds:.1f} s" + (f", steps: {listed}" if listed else "")


class RunError(EngineError):
    """A run did not succeed. The text says why; `run` has the outputs of the steps that finished."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"{run.error or run.state}\nFinished work is kept. To continue, run it again.")
        self.run = run


class RunInterrupted(KeyboardInterrupt):
    """The user interrupted a run. Finished work is kept; `run` has the outputs of the steps that finished."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            f"run {run.run_id} of {run.pipeline} was interrupted; finished work is kept. To continue, run it again."
        )
        self.run = run
