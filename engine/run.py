"""Runs a pipeline: plans each step when its inputs are there, executes what is missing, commits, and tells what happened."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.check import Pipeline, Step
from engine.execute import Cluster
from engine.job import (
    InputPart,
    Job,
    ModelBinding,
    Partition,
    Receipt,
    Usage,
    forget_attempts,
    partitions,
    read_receipt,
    receipt_path,
    stop_mark,
)
from engine.keys import code_digest
from engine.outcome import drafts
from engine.plan import Input, SourcePlan, StepPlan, needed, plan_source, plan_step, resolve_inputs
from engine.problems import StepError
from engine.pulse import read_pulse
from engine.spec import Resources
from registry import Manifest, Metric, Registry, SideObject, StepRun
from registry.store import durable_write

_REASONS_SHOWN = 3


@dataclass(frozen=True)
class StepOutcome:
    """What a step did in this run, and the versions it stands for."""

    record: StepRun
    outputs: tuple[Manifest, ...] = ()
    reasons: tuple[tuple[str, int], ...] = ()
    metrics: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """A run's end: `state` is succeeded, failed or interrupted; `error` is for the user."""

    run_id: str
    pipeline: str
    state: str
    sources: tuple[SourcePlan, ...]
    steps: tuple[StepOutcome, ...]
    seconds: float
    error: str | None = None
    trace: str = ""


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


@dataclass
class _State:
    """What a run has made so far."""

    made: dict[tuple[str, str], Input] = field(default_factory=dict)
    refs: dict[str, int] = field(default_factory=dict)
    outcomes: list[StepOutcome] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, manifests: Sequence[Manifest]) -> None:
        for manifest in manifests:
            self.made[name, manifest.output] = Input(manifest.ref, manifest.data)
            self.refs[manifest.name] = manifest.version


def run(pipeline: Pipeline, registry: Registry, observer: Observer, *, select: set[str], force: set[str]) -> RunResult:
    """Run the selected steps (all, when none is named) and what they need.

    A failed step ends the run; everything finished before is committed, and finished partitions and model answers are
    kept for the next run. `latest` moves for all outputs together, when the run succeeds.

    Raises:
        PipelineError: a source has rows that do not fit; nothing was started.
    """
    started = time.monotonic()
    chosen = needed(pipeline, select)
    source_plans = [plan_source(pipeline, source, registry) for name, source in pipeline.sources.items() if name in chosen]
    run_id = registry.catalog.begin_run(pipeline.spec.name, {"file": pipeline.file.name, "params": dict(pipeline.spec.params)})
    state, cluster = _State(), Cluster()
    ended, error, trace = "failed", None, ""
    try:
        for source in source_plans:
            manifest = source.manifest
            if source.draft is not None:
                [manifest] = registry.catalog.commit([source.draft], run_id, None)
            assert manifest is not None
            state.add(source.name, [manifest])
        for name, step in pipeline.steps.items():
            if name in chosen:
                _Runner(pipeline, step, registry, cluster, observer, state, run_id).step(force=name in force)
        ended = "succeeded"
    except _FailedStepError as failure:
        error, trace = str(failure), failure.trace
    except KeyboardInterrupt:
        ended, error = "interrupted", "stopped by the user"
    except BaseException as unexpected:
        registry.catalog.end_run(run_id, "failed", f"{type(unexpected).__name__}: {unexpected}")
        raise
    finally:
        cluster.stop()
    refs = state.refs if ended == "succeeded" else {}
    registry.catalog.end_run(run_id, ended, error, refs)
    seconds = time.monotonic() - started
    return RunResult(run_id, pipeline.spec.name, ended, tuple(source_plans), tuple(state.outcomes), seconds, error, trace)


class _FailedStepError(Exception):
    """A step failed; the message is for the user."""

    def __init__(self, step: str, message: str, trace: str = "") -> None:
        super().__init__(f"step {step!r} failed: {message}")
        self.trace = trace


@dataclass
class _Runner:
    """One step of one run."""

    pipeline: Pipeline
    definition: Step
    registry: Registry
    cluster: Cluster
    observer: Observer
    state: _State
    run_id: str
    earlier: list[Receipt] = field(default_factory=list)
    fresh: list[Receipt] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    def step(self, *, force: bool) -> None:
        """Hit, or execute what is missing and commit."""
        started = time.monotonic()
        inputs = resolve_inputs(self.definition, self.state.made, self.registry)
        plan = plan_step(self.pipeline, self.definition, inputs, self.registry, force=force)
        if plan.status == "HIT":
            self._hit(plan, started)
            return
        try:
            self._execute(plan, inputs, force=force)
            self._check_rejects(plan)
        except KeyboardInterrupt:
            self.registry.catalog.commit([], self.run_id, self._record(plan, "failed", started))
            raise
        except (StepError, _FailedStepError) as error:
            failure = error if isinstance(error, _FailedStepError) else _FailedStepError(plan.name, str(error))
            record = self._record(plan, "failed", started)
            self.registry.catalog.commit([], self.run_id, record)
            self._tell(record, ())
            raise failure from error
        if sum(r.led + r.filtered + r.rejected for r in self._receipts) != plan.rows:
            raise AssertionError(f"step {plan.name}: rows in are not rows led + filtered + rejected")
        made = drafts(self.pipeline, self.definition, plan, inputs, self._receipts, self.registry)
        record = self._record(plan, "resumed" if self.earlier else "ran", started, sum(draft.rows for draft in made))
        manifests = self.registry.catalog.commit(made, self.run_id, record)
        self.state.add(plan.name, manifests)
        self._tell(record, manifests)

    @property
    def _receipts(self) -> list[Receipt]:
        return [*self.earlier, *self.fresh]

    def _execute(self, plan: StepPlan, inputs: Mapping[str, tuple[Input, ...]], *, force: bool) -> None:
        """Collect the receipts of earlier runs, and run the partitions that have none."""
        operator = self.definition.operator
        parts = partitions(plan.rows or 0, operator.shape, bool(operator.roles))
        if force:
            for part in parts:
                self._forget(plan.key, part)
        self.earlier = self._on_disk(plan.key, parts)
        finished = {receipt.partition for receipt in self.earlier}
        missing = [part for part in parts if part not in finished]
        done = sum(receipt.partition.stop - receipt.partition.start for receipt in self.earlier)
        self.observer.step_started(plan.name, plan.op, plan.rows or 0, done)
        if not missing:
            return
        self.cluster.start()
        resources = self._resources(len(missing))
        job = self._job(plan, inputs, resources)
        mark = stop_mark(self.registry.receipts, plan.key)
        mark.unlink(missing_ok=True)
        forget_attempts(self.registry.receipts, plan.key)
        failure: _FailedStepError | None = None
        with _Ticker(self, plan, done):
            for result in self.cluster.run(job, missing, resources):
                self.usage += result.usage
                self._spend(result.spent)
                if isinstance(result, Receipt):
                    self.fresh.append(result)
                    if failure is None and self._too_many_rejects(plan):
                        failure = _FailedStepError(plan.name, "")
                elif failure is None and not result.stopped:
                    failure = _FailedStepError(plan.name, result.message, result.traceback)
                if failure is not None and not mark.exists():
                    # What is under way comes to its end (it is paid for); nothing new begins.
                    durable_write(mark, b"")
        if failure is not None:
            self.earlier, self.fresh = [], self._on_disk(plan.key, parts)
            self._check_rejects(plan)
            raise failure
        if (lost := len(missing) - len(self.fresh)) > 0:
            raise StepError(f"{lost} of {len(missing)} partitions gave no result; run again to finish them")

    def _on_disk(self, key: str, parts: Sequence[Partition]) -> list[Receipt]:
        return [r for part in parts if (r := read_receipt(self.registry.receipts, self.registry.store, key, part))]

    def _spend(self, spent: Mapping[str, float]) -> None:
        for model, cost in spent.items():
            self.state.spent[model] = self.state.spent.get(model, 0.0) + cost

    def _resources(self, parts: int) -> Resources:
        operator, models = self.definition.operator, self.definition.models.values()
        return self.cluster.workers_for(
            self.definition.spec.resources,
            local_model=any(model.weights is not None for model in models),
            calls_models=bool(operator.roles),
            whole=operator.shape == "whole",
            parts=parts,
        )

    def _job(self, plan: StepPlan, inputs: Mapping[str, tuple[Input, ...]], resources: Resources) -> Job:
        numbered: dict[str, tuple[InputPart, ...]] = {}
        number = 0
        for port, versions in inputs.items():
            numbered[port] = tuple(InputPart(number=number + i, data=version.data) for i, version in enumerate(versions))
            number += len(versions)
        names = self.definition.spec.models
        return Job(
            registry=self.registry.root,
            run_id=self.run_id,
            pipeline=self.pipeline.spec.name,
            step=plan.name,
            step_key=plan.key,
            operator=plan.op,
            code=code_digest(plan.op),
            params=self.definition.params.model_dump(mode="json"),
            inputs=numbered,
            models={
                role: ModelBinding(
                    spec=model.spec,
                    weights=model.weights,
                    identity=model.identity,
                    name=names.get(role, role),
                    spent_usd=self.state.spent.get(names.get(role, role), 0.0),
                )
                for role, model in self.definition.models.items()
            },
            seed=self.pipeline.spec.seed,
            workers=resources.workers or 1,
        )

    def _too_many_rejects(self, plan: StepPlan) -> bool:
        return sum(receipt.rejected for receipt in self._receipts) > self.definition.spec.max_reject_ratio * (plan.rows or 0)

    def _check_rejects(self, plan: StepPlan) -> None:
        if not self._too_many_rejects(plan):
            return
        reasons = self._reasons()
        # What was rejected is to be tried again once its cause is mended, so these partitions count as not done.
        for receipt in self._receipts:
            if receipt.rejected:
                self._forget(plan.key, receipt.partition)
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        rejected, allowed = sum(receipt.rejected for receipt in self._receipts), self.definition.spec.max_reject_ratio
        raise StepError(
            f"{rejected} of {plan.rows} rows were rejected, and max_reject_ratio allows {allowed:.0%}: {listed}. "
            "Answers that were good are kept; mend the cause, or raise max_reject_ratio of the step."
        )

    def _forget(self, key: str, part: Partition) -> None:
        receipt_path(self.registry.receipts, key, part).unlink(missing_ok=True)

    def _reasons(self, parts: Sequence[SideObject] | None = None) -> tuple[tuple[str, int], ...]:
        """The most frequent reasons in objects of rejects (by default, those of the receipts)."""
        if parts is None:
            parts = [receipt.rejects for receipt in self._receipts if receipt.rejects]
        counted: Counter[str] = Counter()
        for part in parts:
            counted.update(self.registry.store.read_table(part.sha256, ["reason"]).column("reason").to_pylist())
        return tuple(counted.most_common(_REASONS_SHOWN))

    def _record(self, plan: StepPlan, outcome: Any, started: float, rows_out: int = 0) -> StepRun:
        return StepRun(
            step=plan.name,
            op=plan.op,
            outcome=outcome,
            rows_in=plan.rows or 0,
            rows_out=rows_out,
            filtered=sum(receipt.filtered for receipt in self._receipts),
            rejected=sum(receipt.rejected for receipt in self._receipts),
            **self.usage.model_dump(),
            seconds=round(time.monotonic() - started, 3),
        )

    def _hit(self, plan: StepPlan, started: float) -> None:
        rejects = [part for part in plan.manifests[0].side if part.kind == "rejects"]
        record = StepRun(
            step=plan.name,
            op=plan.op,
            outcome="hit",
            rows_in=plan.rows or 0,
            rows_out=sum(manifest.rows for manifest in plan.manifests),
            filtered=plan.manifests[0].filtered,
            rejected=plan.manifests[0].rejected,
            seconds=round(time.monotonic() - started, 3),
        )
        self.registry.catalog.commit([], self.run_id, record)
        self.state.add(plan.name, plan.manifests)
        self._tell(record, plan.manifests, rejects)

    def _tell(self, record: StepRun, manifests: Sequence[Manifest], rejects: Sequence[SideObject] | None = None) -> None:
        metrics = manifests[0].metrics if manifests else ()
        outcome = StepOutcome(record, tuple(manifests), self._reasons(rejects), metrics)
        self.state.outcomes.append(outcome)
        self.observer.step_finished(outcome)


class _Ticker:
    """Passes workers' pulses on to the observer while a step runs."""

    def __init__(self, runner: _Runner, plan: StepPlan, done: int) -> None:
        self._folder = runner.registry.receipts / plan.key
        self._observer, self._plan, self._done = runner.observer, plan, done
        self._since = time.time()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _tick(self) -> None:
        rows = self._plan.rows or 0
        while not self._ended.wait(0.5):
            beat = read_pulse(self._folder, self._since)
            done, total = (beat.done, beat.total) if beat.total else (min(rows, self._done + beat.done), rows)
            self._observer.step_advanced(self._plan.name, done, total, beat.note)
