"""Runs a pipeline on a few rows of each source. Nothing is committed; answers of models go to the registry's journal."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from engine.execution.in_process import InProcess
from engine.jobs.partitions import Size
from engine.packages.local_modules import use_local_modules
from engine.pipeline.graph import Pipeline
from engine.planning.plan import make_plan, needed
from engine.previewing.collected import Seeds, collected
from engine.previewing.excerpt import Excerpt, excerpt, seeds_of_sampled
from engine.previewing.forecast import forecast
from engine.previewing.observed import observed, remember
from engine.previewing.results import Preview, PreviewStep
from engine.running.claims import Claims
from engine.running.result import Observer, StepResult
from engine.running.run import run_steps
from engine.running.run_state import RunState
from engine.running.step_task import StepTask
from registry import Overlay, Registry

ROWS = 10
"""Rows of each source, unless the user says otherwise."""

_ROOM = 1024
"""Rows of a step in progress: so many that only the models' limits hold them back."""

_ONE_ROW = Size(1, 1, by_content=False)
"""Each row is a partition, so that a receipt says what became of it."""


def preview(
    pipeline: Pipeline,
    registry: Registry,
    observer: Observer,
    *,
    select: set[str],
    rows: int = ROWS,
    show: Callable[[PreviewStep], None] = lambda step: None,
) -> Preview:
    """Preview the selected steps (all steps if none is selected) and everything they need.

    The workers are in this process. Requests, limits and budgets are those of a run, so every answer is journalled under the
    key under which the run will look it up. Steps that train models, and those that need them, are skipped.

    Args:
        registry: the registry with the journal, and with versions that are up to date; it may not exist yet.
        select: the steps to preview.
        rows: the number of rows to draw from each source, by the pipeline's seed.
        show: called with each step when it has ended.

    Raises:
        PipelineError: a source has rows that do not fit its type; nothing was started.
    """
    use_local_modules(pipeline.modules)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="engine-preview-") as scratch:
        overlay = Overlay(scratch, registry)
        # What a plan reads of the sources is written to the scratch folder, too, if there is no registry yet.
        plan = make_plan(pipeline, registry if registry.exists else overlay, select=select, force=set())
        cut = excerpt(pipeline, plan, select, rows, overlay)
        seeds = {(name, ""): of for name, of in seeds_of_sampled(cut.sampled).items()}
        seeds |= {(each.name, ""): [()] * each.rows for each in cut.given if (each.name, "") not in seeds}
        watch = _Watch(observer, cut, seeds, overlay, show)
        state = RunState(
            cut.pipeline,
            overlay,
            InProcess(_ROOM, overlay),
            watch,
            overlay.catalog.begin_run(cut.pipeline.spec.name, {}),
            Claims(overlay.receipts),
            size=_ONE_ROW,
            asks_people=False,
        )
        watch.tasks = {name: StepTask(state, name, force=False) for name in cut.pipeline.steps}
        ended: Literal["done", "failed", "interrupted"] = "done"
        error, trace = None, ""
        try:
            if failures := run_steps(state, watch.tasks, cut.given):
                ended, error, trace = "failed", "\n".join(map(str, failures)), failures[0].trace
        except KeyboardInterrupt:
            ended, error = "interrupted", "stopped by the user"
        chosen = needed(pipeline, select)
        waiting = _behind_reviews(pipeline, watch.steps)
        steps = tuple(_step(pipeline, name, cut, watch.steps, waiting) for name in pipeline.steps if name in chosen)
    seconds = time.monotonic() - began
    made = Preview(pipeline.spec.name, rows, ended, cut.sampled, steps, None, seconds, error, trace)
    seen = observed(pipeline, made, cut.uncertain)
    if seen.steps:
        seen = remember(registry, seen)
    return replace(made, forecast=forecast(pipeline, plan, seen, registry))


def _step(
    pipeline: Pipeline, name: str, cut: Excerpt, previewed: dict[str, PreviewStep], waiting: Mapping[str, str]
) -> PreviewStep:
    if name in previewed:
        return previewed[name]
    op = pipeline.steps[name].operator.name
    if name in cut.up_to_date:
        return PreviewStep(name, op, "up to date")
    if name in cut.skipped:
        return PreviewStep(name, op, "skipped", cut.skipped[name])
    for link in pipeline.steps[name].links:
        if link.name in waiting:
            return PreviewStep(name, op, "not reached", f"{waiting[link.name]} waits for reviewers")
    return PreviewStep(name, op, "not reached", "a step before it failed, or the preview was stopped")


def _behind_reviews(pipeline: Pipeline, previewed: Mapping[str, PreviewStep]) -> dict[str, str]:
    """The steps that wait for reviewers and all steps after them, each with the step that waits."""
    found = {name: name for name, step in previewed.items() if step.state == "waits"}
    for name, step in pipeline.steps.items():
        before = [found[link.name] for link in step.links if link.kind == "step" and link.name in found]
        if before and name not in found:
            found[name] = before[0]
    return found


class _Watch:
    """Passes the events of the run on, and collects what each step made when it ends. See Observer."""

    def __init__(
        self, observer: Observer, cut: Excerpt, seeds: Seeds, overlay: Overlay, show: Callable[[PreviewStep], None]
    ) -> None:
        self._observer = observer
        self._cut = cut
        self._seeds = seeds
        self._overlay = overlay
        self._show = show
        self.tasks: dict[str, StepTask] = {}
        self.steps: dict[str, PreviewStep] = {}

    def message(self, text: str) -> None:
        self._observer.message(text)

    def step_started(self, step: str, op: str, rows: int, done: int) -> None:
        self._observer.step_started(step, op, rows, done)

    def step_advanced(self, step: str, done: int, total: int, note: str) -> None:
        self._observer.step_advanced(step, done, total, note)

    def step_finished(self, result: StepResult) -> None:
        self._observer.step_finished(result)
        name = result.record.full_step
        own = [self._cut.notes[name]] if name in self._cut.notes else []
        notes = [*self._cut.pipeline.steps[name].notes, *own]
        made = collected(self.tasks[name], result, self._seeds, self._overlay.store, notes)
        self.steps[name] = made
        self._show(made)
