"""Runs a pipeline: plans each step when its inputs are there, executes what is missing, commits, and tells what happened."""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.errors import StepError
from engine.fingerprint.code import code_digest
from engine.jobs.heartbeat import Ticker
from engine.jobs.messages import (
    InputPart,
    Job,
    ModelBinding,
    Partition,
    Receipt,
    Usage,
    checkpoints,
    forget_attempts,
    read_receipt,
    receipt_path,
    stop_mark,
)
from engine.llm.types.requests import Spent
from engine.pipeline.graph import Pipeline, Step
from engine.planning.plan import (
    Input,
    StepPlan,
    excluded_of,
    needed,
    plan_source,
    plan_step,
    resolve_inputs,
    split,
    with_models,
)
from engine.running.cluster import NOTHING, Cluster
from engine.running.drafts import drafts
from engine.running.interrupt import calls_end_first
from engine.running.requirements import check_needs
from engine.running.result import Observer, RunResult, StepOutcome
from engine.running.step_lock import only_one
from engine.spec.pipeline_spec import Resources
from registry import Manifest, Registry, SideObject, StepRun
from registry.storage.objects import canonical_json, durable_write

_REASONS_SHOWN = 3


@dataclass
class _State:
    """What a run has made so far."""

    made: dict[tuple[str, str], Input] = field(default_factory=dict)
    refs: dict[str, int] = field(default_factory=dict)
    outcomes: list[StepOutcome] = field(default_factory=list)
    spent: dict[str, Spent] = field(default_factory=dict)

    def add(self, name: str, manifests: Sequence[Manifest]) -> None:
        for manifest in manifests:
            self.made[name, manifest.output] = Input(manifest.ref, manifest.data)
            self.refs[manifest.name] = manifest.version


def run(
    pipeline: Pipeline,
    registry: Registry,
    observer: Observer,
    *,
    select: set[str],
    force: set[str],
    retry_rejects: bool = False,
    move_latest: bool = False,
) -> RunResult:
    """Run the selected steps (all, when none is named) and what they need.

    A failed step ends the run; everything finished before is committed, and finished partitions and model answers are
    kept for the next run. `latest` moves for all outputs together, when the run succeeds. A trial with other parameters
    than the pipeline's own does not move it: others rely on it.

    Args:
        select: steps.
        force: steps to run though they hit.
        retry_rejects: run the rejected rows of every step again.
        move_latest: move `latest` whatever the parameters are.

    Raises:
        PipelineError: a source has rows that do not fit; nothing was started.
    """
    began = dt.datetime.now(dt.UTC)
    chosen = needed(pipeline, select)
    moves = move_latest or _moves_latest(pipeline, registry)
    source_plans = [plan_source(pipeline, each, registry) for name, each in pipeline.sources.items() if name in chosen]
    source = {"file": pipeline.file.name, "params": dict(pipeline.spec.params)}
    run_id = registry.catalog.begin_run(pipeline.spec.name, source, began)
    state, cluster = _State(), Cluster()
    ended, error, trace = "failed", None, ""
    try:
        for each in source_plans:
            manifest = each.manifest
            if each.draft is not None:
                [manifest] = registry.catalog.commit([each.draft], run_id, None)
            assert manifest is not None
            state.add(each.name, [manifest])
        for name, step in pipeline.steps.items():
            if name in chosen:
                _Runner(pipeline, step, registry, cluster, observer, state, run_id, retry_rejects).step(force=name in force)
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
    registry.catalog.end_run(run_id, ended, error, state.refs if ended == "succeeded" and moves else {})
    seconds = (dt.datetime.now(dt.UTC) - began).total_seconds()
    return RunResult(
        run_id, pipeline.spec.name, ended, tuple(source_plans), tuple(state.outcomes), seconds, error, trace, moves
    )


def _moves_latest(pipeline: Pipeline, registry: Registry) -> bool:
    """Whether `latest` moves: with the file's own parameters, with those that it moved with last, or for the first time."""
    if pipeline.has_own_params:
        return True
    before = registry.params_of_latest(pipeline.spec.name)
    return before is None or canonical_json(before) == canonical_json(dict(pipeline.spec.params))


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
    retry_rejects: bool
    earlier: list[Receipt] = field(default_factory=list)
    fresh: list[Receipt] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    def step(self, *, force: bool) -> None:
        """Hit, or execute what is missing and commit."""
        started = time.monotonic()
        self.definition = with_models(self.definition, self.state.made, self.registry)
        inputs = resolve_inputs(self.definition, self.state.made, self.registry)
        plan = plan_step(self.pipeline, self.definition, inputs, self.registry, force=force)
        if self._is_done(plan):
            self._hit(plan, started)
            return
        folder = self.registry.receipts / plan.key
        with only_one(folder, self.run_id, lambda text: self.observer.message(f"{plan.name}: {text}")):
            # Another run may have finished the same step in the meantime.
            plan = plan_step(self.pipeline, self.definition, inputs, self.registry, force=force)
            if self._is_done(plan):
                self._hit(plan, started)
            else:
                self._make(plan, inputs, started, force=force)

    def _is_done(self, plan: StepPlan) -> bool:
        return plan.status == "HIT" and not (self.retry_rejects and _rejects(plan.manifests))

    def _make(self, plan: StepPlan, inputs: Mapping[str, tuple[Input, ...]], started: float, *, force: bool) -> None:
        try:
            self._execute(plan, inputs, force=force)
            self._check_rejects(plan)
        except KeyboardInterrupt:
            record = self._record(plan, "failed", started)
            self.registry.catalog.commit([], self.run_id, record)
            self._tell(record, ())
            raise
        except (StepError, _FailedStepError) as error:
            failure = error if isinstance(error, _FailedStepError) else _FailedStepError(plan.name, str(error))
            record = self._record(plan, "failed", started)
            self.registry.catalog.commit([], self.run_id, record)
            self._tell(record, ())
            raise failure from error
        if sum(r.led + r.filtered + r.rejected + r.unused for r in self._receipts) != plan.rows:
            raise AssertionError(f"step {plan.name}: rows in are not rows led + filtered + rejected + unused")
        made = drafts(self.pipeline, self.definition, plan, inputs, self._receipts, self.registry)
        record = self._record(plan, "resumed" if self.earlier else "ran", started, sum(draft.rows for draft in made))
        manifests = self.registry.catalog.commit(made, self.run_id, record)
        self._forget_checkpoints(plan.key)
        self.state.add(plan.name, manifests)
        self._tell(record, manifests)

    @property
    def _receipts(self) -> list[Receipt]:
        return [*self.earlier, *self.fresh]

    def _execute(self, plan: StepPlan, inputs: Mapping[str, tuple[Input, ...]], *, force: bool) -> None:
        """Collect the receipts of earlier runs, and run the partitions that have none."""
        operator = self.definition.operator
        parts = split(self.definition, inputs)
        if force:
            for part in parts:
                self._forget(plan.key, part)
            self._forget_checkpoints(plan.key)
        self.earlier = self._on_disk(plan.key, parts)
        if self.retry_rejects:
            self._forget_rejected(plan.key)
            self.earlier = [receipt for receipt in self.earlier if not receipt.rejects]
        finished = {receipt.partition for receipt in self.earlier}
        missing = [part for part in parts if part not in finished]
        done = sum(receipt.partition.stop - receipt.partition.start for receipt in self.earlier)
        self.observer.step_started(plan.name, plan.op, plan.rows or 0, done)
        for note in self.definition.notes:
            self.observer.message(f"{plan.name}: {note}")
        if not missing:
            return
        self._spend(check_needs(self.definition, self.registry, self.state.spent))
        if any(model.spec.mode == "batch" for model in self.definition.models.values()):
            self.observer.message(
                f"{plan.name}: its calls go out in batches, which may take a day. Stop (Ctrl-C) and run again whenever you "
                "like: what is out is collected, not sent again"
            )
        self.cluster.start()
        resources = self._resources(len(missing))
        job = self._job(plan, inputs, resources)
        if self._devices > 1:
            resources = NOTHING  # the devices have them
        mark = stop_mark(self.registry.receipts, plan.key)
        mark.unlink(missing_ok=True)
        forget_attempts(self.registry.receipts, plan.key)
        failure: _FailedStepError | None = None
        tell = partial(self.observer.step_advanced, plan.name)
        paid = bool(operator.roles) and operator.shape == "row"
        with (
            Ticker(self.registry.receipts / plan.key, plan.rows or 0, done, tell),
            calls_end_first(mark, self.observer.message) if paid else nullcontext(lambda: False) as interrupted,
        ):
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
        if interrupted():
            raise KeyboardInterrupt
        if failure is not None:
            self.earlier, self.fresh = [], self._on_disk(plan.key, parts)
            self._check_rejects(plan)
            raise failure
        if (lost := len(missing) - len(self.fresh)) > 0:
            raise StepError(f"{lost} of {len(missing)} partitions gave no result; run again to finish them")

    def _on_disk(self, key: str, parts: Sequence[Partition]) -> list[Receipt]:
        return [r for part in parts if (r := read_receipt(self.registry.receipts, self.registry.store, key, part))]

    def _spend(self, spent: Mapping[str, Spent]) -> None:
        for model, more in spent.items():
            self.state.spent[model] = self.state.spent.get(model, Spent()) + more

    @property
    def _devices(self) -> int:
        return self.definition.operator.device_count(self.definition.params)

    def _resources(self, parts: int) -> Resources:
        operator, models = self.definition.operator, self.definition.models.values()
        return self.cluster.workers_for(
            self.definition.spec.resources,
            local_model=any(model.weights is not None for model in models),
            calls_models=bool(operator.roles),
            whole=operator.shape == "whole",
            parts=parts,
            devices=self._devices,
        )

    def _job(self, plan: StepPlan, inputs: Mapping[str, tuple[Input, ...]], resources: Resources) -> Job:
        numbered: dict[str, tuple[InputPart, ...]] = {}
        number = 0
        for port, versions in inputs.items():
            numbered[port] = tuple(InputPart(number=number + i, data=version.data) for i, version in enumerate(versions))
            number += len(versions)
        names = self.definition.spec.models
        return Job(
            registry=self.registry.location,
            run_id=self.run_id,
            pipeline=self.pipeline.spec.name,
            step=plan.name,
            step_key=plan.key,
            operator=plan.op,
            types={port: each.record.type_name() for port, each in self.definition.operator.inputs.items()},
            code=code_digest(plan.op),
            # What is set, and no defaults: some operators ask which of them were set.
            params=self.definition.params.model_dump(mode="json", exclude_unset=True),
            inputs=numbered,
            models={
                role: ModelBinding(
                    spec=model.spec,
                    weights=model.weights,
                    identity=model.identity,
                    name=names.get(role, role),
                    spent=self.state.spent.get(names.get(role, role), Spent()),
                )
                for role, model in self.definition.models.items()
            },
            seed=self.pipeline.spec.seed,
            threads=max(1, int(resources.num_cpus or 1)),
            device={"CPU": resources.num_cpus or 0, "GPU": resources.num_gpus or 0},
            retry_rejects=self.retry_rejects,
            excluded=excluded_of(self.pipeline, self.definition),
            families=dict(plan.families),
        )

    def _too_many_rejects(self, plan: StepPlan) -> bool:
        return sum(receipt.rejected for receipt in self._receipts) > self.definition.spec.max_reject_ratio * (plan.rows or 0)

    def _check_rejects(self, plan: StepPlan) -> None:
        if not self._too_many_rejects(plan):
            return
        reasons = self._reasons([receipt.rejects for receipt in self._receipts if receipt.rejects])
        # What was rejected is to be tried again once its cause is mended, so these partitions count as not done.
        self._forget_rejected(plan.key)
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        rejected, allowed = sum(receipt.rejected for receipt in self._receipts), self.definition.spec.max_reject_ratio
        raise StepError(
            f"{rejected} of {plan.rows} rows were rejected, and max_reject_ratio allows {allowed:.0%}: {listed}. "
            "Answers that were good are kept; mend the cause, or raise max_reject_ratio of the step."
        )

    def _forget_rejected(self, key: str) -> None:
        for receipt in self._receipts:
            if receipt.rejects:
                self._forget(key, receipt.partition)

    def _forget(self, key: str, part: Partition) -> None:
        receipt_path(self.registry.receipts, key, part).unlink(missing_ok=True)

    def _forget_checkpoints(self, key: str) -> None:
        shutil.rmtree(checkpoints(self.registry.receipts, key), ignore_errors=True)

    def _reasons(self, parts: Sequence[SideObject]) -> tuple[tuple[str, int], ...]:
        """The most frequent reasons in objects of rejects."""
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
            unused=sum(receipt.unused for receipt in self._receipts),
            **self.usage.model_dump(),
            seconds=round(time.monotonic() - started, 3),
        )

    def _hit(self, plan: StepPlan, started: float) -> None:
        record = StepRun(
            step=plan.name,
            op=plan.op,
            outcome="hit",
            rows_in=plan.rows or 0,
            rows_out=sum(manifest.rows for manifest in plan.manifests),
            filtered=plan.manifests[0].filtered,
            rejected=plan.manifests[0].rejected,
            unused=plan.manifests[0].unused,
            seconds=round(time.monotonic() - started, 3),
        )
        self.registry.catalog.commit([], self.run_id, record, hits=plan.manifests)
        self.state.add(plan.name, plan.manifests)
        self._tell(record, plan.manifests, _rejects(plan.manifests))

    def _tell(self, record: StepRun, manifests: Sequence[Manifest], rejects: Sequence[SideObject] | None = None) -> None:
        metrics = manifests[0].metrics if manifests else ()
        if rejects is None:
            rejects = [receipt.rejects for receipt in self._receipts if receipt.rejects]
        partial = sum(part.rows for part in rejects) - record.rejected
        notes = tuple(dict.fromkeys(note for receipt in self.fresh for note in receipt.notes))
        asks_api = any(model.spec.provider == "openai" for model in self.definition.models.values())
        outcome = StepOutcome(record, tuple(manifests), self._reasons(rejects), partial, metrics, notes, asks_api)
        self.state.outcomes.append(outcome)
        self.observer.step_finished(outcome)


def _rejects(manifests: Sequence[Manifest]) -> list[SideObject]:
    """Rejects stand with a step's first output."""
    return [part for part in manifests[0].side if part.kind == "rejects"]
