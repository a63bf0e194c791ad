"""Runs a pipeline: commits its sources, then runs its steps, each as soon as its inputs are there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from engine.execution.cluster import Cluster
from engine.execution.executor import Executor
from engine.execution.jobs import shared_models
from engine.packages.local_modules import use_local_modules
from engine.pipeline.graph import Link, Pipeline, Step
from engine.planning.plan import known_versions, needed
from engine.planning.results import SourcePlan
from engine.planning.sources import plan_source
from engine.running.claims import Claims
from engine.running.result import Observer, RunResult
from engine.running.run_state import FailedStepError, RunState
from engine.running.scheduler import Scheduler
from engine.running.step_task import StepTask
from registry import Registry
from registry.storage.checked_json import canonical_json
from registry.storage.valid_text import repaired


def run(
    pipeline: Pipeline,
    registry: Registry,
    observer: Observer,
    *,
    select: set[str],
    force: set[str],
    retry_rejects: bool = False,
    move_latest: bool = False,
    cluster: Executor | None = None,
) -> RunResult:
    """Run the selected steps (all steps if none is selected) and everything they need.

    A failed step ends the run. A step that people have to review first ends as `waiting`, and so does the run when all steps
    that do not depend on it are done. All finished steps are committed; finished partitions and model answers are kept for the
    next run. If the run succeeds, `latest` moves for all outputs together. A trial with parameters other than the pipeline's
    own does not move it, because others rely on it.

    Args:
        select: the steps to run.
        force: steps to run even if they hit.
        retry_rejects: run the rejected rows of every step again.
        move_latest: move `latest` whatever the parameters are.
        cluster: executes the partitions (default: Ray).

    Raises:
        PipelineError: a source has rows that do not fit its type; nothing was started.
    """
    use_local_modules(pipeline.modules)
    began = dt.datetime.now(dt.UTC)
    chosen = needed(pipeline, select)
    known = known_versions(pipeline, registry)
    source_plans = [plan_source(pipeline, each, registry, known) for name, each in pipeline.sources.items() if name in chosen]
    source: dict[str, Any] = {"file": pipeline.file.name, "params": dict(pipeline.spec.params)}
    source["graph"] = [_in_words(pipeline, pipeline.steps[name]) for name in pipeline.steps if name in chosen]
    if pipeline.spec.matrix:
        source["matrix"] = dict(pipeline.spec.matrix)
    run_id = registry.catalog.begin_run(pipeline.spec.name, source, began)
    steps = [step for name, step in pipeline.steps.items() if name in chosen]
    claims = Claims(registry.receipts)
    state = RunState(
        pipeline,
        registry,
        cluster or Cluster(registry.location),
        observer,
        run_id,
        claims,
        retry_rejects,
        shared=shared_models(steps),
        known=known,
    )
    ended, error, trace, moves = "failed", None, "", False
    tasks: dict[str, StepTask] = {}
    try:
        tasks = {step.name: StepTask(state, step.name, force=step.name in force) for step in steps}
        failures = run_steps(state, tasks, source_plans)
        if failures:
            error, trace = "\n".join(map(str, failures)), failures[0].trace
        else:
            # Not asked before: another run may have moved `latest` meanwhile.
            moves = move_latest or _moves_latest(pipeline, registry)
            ended = "waiting" if any(task.waits for task in tasks.values()) else "succeeded"
    except KeyboardInterrupt:
        failed = [str(task.failure) for task in tasks.values() if task.failure]
        ended, error = "interrupted", "\n".join([*failed, "stopped by the user"])
    except BaseException as unexpected:
        registry.catalog.end_run(run_id, "failed", repaired(f"{type(unexpected).__name__}: {unexpected}"))
        raise
    registry.catalog.end_run(run_id, ended, error, state.refs if ended == "succeeded" and moves else {})
    results = tuple(state.results[step.name] for step in steps if step.name in state.results)
    seconds = (dt.datetime.now(dt.UTC) - began).total_seconds()
    return RunResult(run_id, pipeline.spec.name, ended, tuple(source_plans), results, seconds, error, trace, moves)


def run_steps(state: RunState, tasks: Mapping[str, StepTask], sources: Sequence[SourcePlan]) -> list[FailedStepError]:
    """Commit the sources of a run, then run its steps; returns the failures, the first one first.

    Args:
        state: the state of the run; its claims and its executor are released at the end.
        tasks: the steps by name, in an executable order.
        sources: everything else that they read.

    Raises:
        KeyboardInterrupt: the user interrupted the run.
    """
    with ExitStack() as ends:
        ends.callback(state.claims.close)
        ends.callback(state.executor.stop)
        ends.callback(state.servers.close)
        ends.callback(state.stop_asking)
        state.servers.expect([task.step for task in tasks.values()])
        for each in sources:
            manifest = each.manifest
            if each.draft is not None:
                [manifest] = state.commit([each.draft], None)
            assert manifest is not None
            state.add(each.name, [manifest])
        return Scheduler(state, tasks).run()


def _in_words(pipeline: Pipeline, step: Step) -> dict[str, Any]:
    """A step, with the names in the registry of what it reads and makes, for those who look at the run before it has ended."""

    def name_of(link: Link) -> str:
        if link.kind == "registry":
            return f"{link.name}@{link.version}"
        return pipeline.output_name(link.name, link.output) if link.kind == "step" else f"{pipeline.spec.name}/{link.name}"

    return {
        "step": step.name,
        "op": step.operator.name,
        "inputs": {port: [name_of(link) for link in links] for port, links in step.inputs.items()},
        "outputs": [pipeline.output_name(step.name, output) for output in step.operator.outputs],
        "models": {
            role: {"name": name_of(model.made_by)} if model.made_by else {"model": model.spec.model}
            for role, model in step.models.items()
        },
    }


def _moves_latest(pipeline: Pipeline, registry: Registry) -> bool:
    """Whether `latest` moves: with the file's own parameters, with those of its last move, or for the first time."""
    if pipeline.has_own_params:
        return True
    before = registry.params_of_latest(pipeline.spec.name)
    return before is None or canonical_json(before) == canonical_json(dict(pipeline.spec.params))
