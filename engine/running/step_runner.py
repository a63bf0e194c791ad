"""Runs one step: uses its existing outputs, or runs the missing partitions and commits the outputs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.errors import StepError
from engine.fingerprint.code import code_digest
from engine.jobs.heartbeat import ProgressWatch
from engine.jobs.messages import Job, ModelBinding, Receipt, Usage
from engine.jobs.receipts import Receipts
from engine.llm.limits.accounting import Spent
from engine.operator.catalogue import full_name
from engine.operator.types import DeclarationError
from engine.pipeline.graph import Pipeline, Step
from engine.planning.inputs import Available, resolve_inputs, version_of, with_models
from engine.planning.plan import excluded_of, find_outputs, plan_step, with_partitions
from engine.planning.results import StepPlan
from engine.running.cluster import NOTHING
from engine.running.content_ids import ContentIds
from engine.running.drafts import drafts
from engine.running.executor import Executor
from engine.running.interrupt import calls_end_first
from engine.running.requirements import check_needs
from engine.running.result import Observer, StepResult
from engine.running.step_lock import only_one
from engine.spec.pipeline_spec import Resources
from registry import Manifest, Registry, SideObject, StepRun
from registry.storage.files import durable_write

_REASONS_SHOWN = 3


class FailedStepError(Exception):
    """A step failed; the message is for the user."""

    def __init__(self, step: str, message: str, trace: str = "") -> None:
        super().__init__(f"step {step!r} failed: {message}")
        self.trace = trace


@dataclass
class RunState:
    """The state that the steps of a run share, and what they have made so far."""

    pipeline: Pipeline
    registry: Registry
    executor: Executor
    observer: Observer
    run_id: str
    retry_rejects: bool = False
    available: Available = field(default_factory=dict)
    refs: dict[str, int] = field(default_factory=dict)
    results: list[StepResult] = field(default_factory=list)
    spent: dict[str, Spent] = field(default_factory=dict)

    def add(self, name: str, manifests: Sequence[Manifest]) -> None:
        """Add the versions of a dataset or step."""
        for manifest in manifests:
            self.available[name, manifest.output] = version_of(manifest)
            self.refs[manifest.name] = manifest.version

    def finish(self, result: StepResult) -> None:
        """Add what a step did, and report it."""
        self.results.append(result)
        self.observer.step_finished(result)

    def spend(self, spent: Mapping[str, Spent]) -> None:
        """Add what was spent on models."""
        for model, more in spent.items():
            self.spent[model] = self.spent.get(model, Spent()) + more


def run_step(run: RunState, name: str, *, force: bool) -> None:
    """Use the existing outputs of a step, or make them.

    Args:
        force: run it even if it hits.

    Raises:
        FailedStepError: the step failed, and this is recorded.
    """
    started = time.monotonic()
    step = with_models(run.pipeline.steps[name], run.available, run.registry)
    inputs = resolve_inputs(run.pipeline, step, run.available, run.registry)
    plan = plan_step(run.pipeline, step, inputs, run.registry, force=force)
    if _is_done(run, plan.manifests):
        _hit(run, step, plan, plan.manifests, started)
        return
    with only_one(run.registry.receipts / plan.key, run.run_id, lambda text: run.observer.message(f"{name}: {text}")) as waited:
        # Another run may have finished the step since it was planned, or some of its partitions.
        found = () if force else find_outputs(run.pipeline, step, plan.key, run.registry)
        if _is_done(run, found):
            _hit(run, step, plan, found, started)
            return
        if waited or plan.status == "HIT":
            plan = with_partitions(plan, step, run.registry, force=force)
        _StepRunner(run, step, plan, force, started).run()


def _is_done(run: RunState, manifests: Sequence[Manifest]) -> bool:
    return bool(manifests) and not (run.retry_rejects and _rejects(manifests))


def _hit(run: RunState, step: Step, plan: StepPlan, manifests: Sequence[Manifest], started: float) -> None:
    first = manifests[0]
    record = StepRun(
        step=plan.name,
        op=plan.op,
        outcome="hit",
        rows_in=plan.rows or 0,
        rows_out=sum(manifest.rows for manifest in manifests),
        filtered=first.filtered,
        rejected=first.rejected,
        unused=first.unused,
        seconds=round(time.monotonic() - started, 3),
    )
    run.registry.catalog.commit([], run.run_id, record, hits=tuple(manifests))
    run.add(plan.name, manifests)
    run.finish(_result(run, step, record, manifests, _rejects(manifests)))


def _result(
    run: RunState,
    step: Step,
    record: StepRun,
    manifests: Sequence[Manifest],
    rejects: Sequence[SideObject],
    notes: Sequence[str] = (),
) -> StepResult:
    return StepResult(
        record,
        tuple(manifests),
        _reasons(run.registry, rejects),
        partial=sum(part.rows for part in rejects) - record.rejected,
        metrics=manifests[0].metrics if manifests else (),
        notes=tuple(dict.fromkeys(notes)),
        asks_api=any(model.spec.provider == "openai" for model in step.models.values()),
    )


def _rejects(manifests: Sequence[Manifest]) -> list[SideObject]:
    """The rejects of a step; they belong to its first output."""
    return [part for part in manifests[0].side if part.kind == "rejects"]


def _reasons(registry: Registry, rejects: Sequence[SideObject]) -> tuple[tuple[str, int], ...]:
    """The most frequent reasons, with their counts."""
    counted: Counter[str] = Counter()
    for part in rejects:
        counted.update(registry.store.read_table(part.sha256, ["reason"]).column("reason").to_pylist())
    return tuple(counted.most_common(_REASONS_SHOWN))


@dataclass
class _StepRunner:
    """Makes the outputs of a step that does not hit. `plan` has its partitions and the receipts of earlier runs."""

    state: RunState
    step: Step
    plan: StepPlan
    force: bool
    started: float
    earlier: list[Receipt] = field(default_factory=list)
    fresh: list[Receipt] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self.registry = self.state.registry
        self.disk = Receipts.of(self.registry, self.plan.key)
        self.ids = ContentIds(self.registry.store, self.step.operator, self.plan.parts)

    def run(self) -> None:
        """Execute what is missing, commit the outputs, and report what the step did."""
        state, plan = self.state, self.plan
        try:
            self._execute()
            self._check_rejects()
        except KeyboardInterrupt:
            self._fail()
            raise
        except FailedStepError:
            self._fail()
            raise
        except StepError as error:
            self._fail()
            raise FailedStepError(plan.name, str(error)) from error
        if sum(receipt.accounted for receipt in self._receipts) != plan.rows:
            raise AssertionError(f"step {plan.name}: rows in are not rows produced + filtered + rejected + unused")
        try:
            made = drafts(state.pipeline, self.step, plan, self._receipts, self.ids, self.registry)
        except DeclarationError as error:  # of the operator's finish function
            self._fail()
            raise FailedStepError(plan.name, str(error)) from error
        record = self._record("resumed" if self.earlier else "ran", sum(draft.rows for draft in made))
        manifests = self.registry.catalog.commit(made, state.run_id, record)
        self.disk.forget_checkpoints()
        state.add(plan.name, manifests)
        self._finish(record, manifests)

    @property
    def _receipts(self) -> list[Receipt]:
        return [*self.earlier, *self.fresh]

    @property
    def _rejected(self) -> int:
        return sum(receipt.rejected for receipt in self._receipts)

    def _execute(self) -> None:
        """Run the partitions that have no receipt."""
        plan, observer = self.plan, self.state.observer
        if self.force:
            for part in plan.parts:
                self.disk.forget(part)
            self.disk.forget_checkpoints()
        self.earlier = list(plan.receipts)
        if self.state.retry_rejects:
            self._forget_rejected()
            self.earlier = [receipt for receipt in self.earlier if not receipt.rejects]
        finished = {receipt.partition for receipt in self.earlier}
        missing = [part for part in plan.parts if part not in finished]
        done = sum(part.stop - part.start for part in finished)
        observer.step_started(plan.name, plan.op, plan.rows or 0, done)
        for note in self.step.notes:
            observer.message(f"{plan.name}: {note}")
        self.ids.add(self.earlier)
        if not missing:
            return
        self.state.spend(check_needs(self.step, self.registry, self.state.spent))
        if any(model.spec.mode == "batch" for model in self.step.models.values()):
            observer.message(
                f"{plan.name}: its calls are sent in batches, which may take up to a day. You can stop (Ctrl-C) and run again "
                "at any time: the results of submitted batches are collected, and nothing is sent twice"
            )
        failure = self._run_partitions(missing, done)
        if failure is not None:
            self.earlier, self.fresh = [], list(self.disk.read_all(plan.parts))
            self._check_rejects()
            raise failure
        if (lost := len(missing) - len(self.fresh)) > 0:
            raise StepError(f"{lost} of {len(missing)} partitions returned no result; run again to finish them")

    def _run_partitions(self, missing: Sequence[Any], done: int) -> FailedStepError | None:
        """Run partitions and collect their receipts; returns the first failure."""
        plan, observer, operator = self.plan, self.state.observer, self.step.operator
        self.state.executor.start()
        resources = self._resources(len(missing))
        job = self._job(resources)
        if self._devices > 1:
            resources = NOTHING  # the resources go to its devices
        mark = self.disk.stop_mark
        mark.unlink(missing_ok=True)
        self.disk.forget_attempts()
        failure: FailedStepError | None = None
        report = partial(observer.step_advanced, plan.name)
        paid = bool(operator.roles) and operator.shape == "row"
        with (
            ProgressWatch(self.disk.folder, plan.rows or 0, done, report),
            calls_end_first(mark, observer.message) if paid else nullcontext(lambda: False) as interrupted,
        ):
            for result in self.state.executor.run(job, list(missing), resources):
                self.usage += result.usage
                self.state.spend(result.spent)
                if isinstance(result, Receipt):
                    self.fresh.append(result)
                    if failure is None and self._too_many_rejects:
                        failure = FailedStepError(plan.name, "")
                    if failure is None:
                        self.ids.add([result])
                elif failure is None and not result.stopped:
                    failure = FailedStepError(plan.name, result.message, result.traceback)
                if failure is not None and not mark.exists():
                    # Requests in flight are paid for, so they finish; no new partition starts.
                    durable_write(mark, b"")
        if interrupted():
            raise KeyboardInterrupt
        return failure

    @property
    def _devices(self) -> int:
        return self.step.operator.device_count(self.step.params)

    def _resources(self, parts: int) -> Resources:
        operator, models = self.step.operator, self.step.models.values()
        return self.state.executor.workers_for(
            self.step.spec.resources,
            local_model=any(model.weights is not None for model in models),
            calls_models=bool(operator.roles),
            whole=operator.shape == "whole",
            parts=parts,
            devices=self._devices,
        )

    def _job(self, resources: Resources) -> Job:
        plan, step, names = self.plan, self.step, self.step.spec.models
        return Job(
            registry=self.registry.location,
            run_id=self.state.run_id,
            pipeline=self.state.pipeline.spec.name,
            step=plan.name,
            step_key=plan.key,
            operator=full_name(step.operator),
            types={port: full_name(each.record) for port, each in step.operator.inputs.items()},
            code=code_digest(full_name(step.operator)),
            # Without defaults: some operators ask which parameters were set.
            params=step.params.model_dump(mode="json", exclude_unset=True),
            inputs=dict(plan.inputs),
            models={
                role: ModelBinding(
                    spec=model.spec,
                    weights=model.weights,
                    identity=model.identity,
                    name=names.get(role, role),
                    spent=self.state.spent.get(names.get(role, role), Spent()),
                )
                for role, model in step.models.items()
            },
            seed=self.state.pipeline.spec.seed,
            threads=max(1, int(resources.num_cpus or 1)),
            device={"CPU": resources.num_cpus or 0, "GPU": resources.num_gpus or 0},
            retry_rejects=self.state.retry_rejects,
            excluded=excluded_of(self.state.pipeline, step),
            row_groups=dict(plan.row_groups),
        )

    @property
    def _too_many_rejects(self) -> bool:
        return self._rejected > self.step.spec.max_reject_ratio * (self.plan.rows or 0)

    def _check_rejects(self) -> None:
        if not self._too_many_rejects:
            return
        reasons = _reasons(self.registry, self._reject_objects)
        # Rejected rows must run again once the cause is fixed, so their partitions count as unfinished.
        self._forget_rejected()
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        raise StepError(
            f"{self._rejected} of {self.plan.rows} rows were rejected, and max_reject_ratio allows "
            f"{self.step.spec.max_reject_ratio:.0%}: {listed}. Good answers are kept. Fix the cause, or raise the step's "
            "max_reject_ratio"
        )

    def _forget_rejected(self) -> None:
        for receipt in self._receipts:
            if receipt.rejects:
                self.disk.forget(receipt.partition)

    @property
    def _reject_objects(self) -> list[SideObject]:
        return [receipt.rejects for receipt in self._receipts if receipt.rejects]

    def _fail(self) -> None:
        """Record that the step failed."""
        record = self._record("failed")
        self.registry.catalog.commit([], self.state.run_id, record)
        self._finish(record, ())

    def _record(self, outcome: Any, rows_out: int = 0) -> StepRun:
        return StepRun(
            step=self.plan.name,
            op=self.plan.op,
            outcome=outcome,
            rows_in=self.plan.rows or 0,
            rows_out=rows_out,
            filtered=sum(receipt.filtered for receipt in self._receipts),
            rejected=self._rejected,
            unused=sum(receipt.unused for receipt in self._receipts),
            **self.usage.model_dump(),
            seconds=round(time.monotonic() - self.started, 3),
        )

    def _finish(self, record: StepRun, manifests: Sequence[Manifest]) -> None:
        notes = [note for receipt in self.fresh for note in receipt.notes]
        self.state.finish(_result(self.state, self.step, record, manifests, self._reject_objects, notes))
