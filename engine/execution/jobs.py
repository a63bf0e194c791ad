"""The job that the workers of a step get, and what the step requests from the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.execution.executor import Kind, WorkerRequest
from engine.jobs.messages import Job, ModelBinding
from engine.llm.limits.accounting import Spent
from engine.llm.limits.outage import PATIENCE_SECONDS
from engine.llm.types.model_spec import ModelSpec
from engine.packages.catalogue import full_name
from engine.pipeline.graph import Pipeline, Step
from engine.planning.keys import code_in
from engine.planning.plan import excluded_of
from engine.planning.results import StepPlan
from engine.spec.pipeline_spec import Resources
from registry import Registry
from registry.records.described import description_of

MOST_CONCURRENT = 1000
"""Partitions that a process can have in progress, over all steps."""

_ROWS_PER_REQUEST = 8
_LEAST_IN_FLIGHT = 8


def request_of(step: Step) -> WorkerRequest:
    """The workers that a step asks for."""
    operator = step.operator
    kind: Kind = "compute"
    if operator.shape == "whole":
        kind = "whole"
    elif any(not model.spec.remote for model in step.models.values()):
        kind = "local"
    elif operator.roles:
        kind = "server"
    return WorkerRequest(step.name, kind, step.spec.resources, operator.device_count(step.params))


def shared_models(steps: Sequence[Step]) -> frozenset[str]:
    """The names of the models whose limits several processes may use at the same time, or must outlive a process.

    Those with a budget or a maximum of calls; and models behind an API that several workers use, or steps in different
    processes.
    """
    used: dict[str, set[object]] = {}
    shared = set()
    for step in steps:
        request = request_of(step)
        workers = step.spec.resources.workers
        # Where the pipeline leaves it open, there may be one for each GPU or CPU.
        several = request.kind in ("local", "compute") if workers is None else workers > 1
        process = step.name if request.kind == "whole" else (request.kind, step.spec.resources)
        for role, name in step.model_names.items():
            spec = step.models[role].spec
            if spec.encodes:
                continue
            if spec.capped or (spec.remote and several):
                shared.add(name)
            if spec.remote:
                used.setdefault(name, set()).add(process)
    return frozenset(shared | {name for name, processes in used.items() if len(processes) > 1})


def job_of(
    pipeline: Pipeline,
    step: Step,
    plan: StepPlan,
    registry: Registry,
    run_id: str,
    resources: Resources,
    spent: Mapping[str, Spent],
    shared: frozenset[str],
    *,
    retry_rejects: bool,
) -> Job:
    """The job of a step's workers.

    Args:
        resources: the resources of each worker.
        spent: the driver's own spending, by model.
        shared: see `shared_models`.
        retry_rejects: see Job.
    """
    operator, names = step.operator, step.model_names
    # The code of the key, not the present one: a file that the code names may have changed while the step waited for workers.
    assert plan.document is not None
    return Job(
        registry=registry.location,
        run_id=run_id,
        pipeline=pipeline.spec.name,
        step=step.name,
        base_key=plan.base_key,
        operator=full_name(operator),
        types={port: description_of(each.record) or full_name(each.record) for port, each in operator.inputs.items()},
        code=code_in(plan.document),
        # Without defaults: some operators ask which parameters were set.
        params=step.params.model_dump(mode="json", exclude_unset=True),
        inputs={port: versions for port, versions in plan.inputs.items() if operator.inputs[port].whole},
        models={
            role: ModelBinding(
                spec=_with_patience(model.spec),
                weights=None if model.spec.serve else model.weights,  # those are for its servers
                identity=model.identity,
                name=names[role],
                spent=spent.get(names[role], Spent()),
                shared=names[role] in shared,
            )
            for role, model in step.models.items()
        },
        seed=pipeline.seed_of(step.name),
        threads=max(1, int(resources.num_cpus or 1)),
        device={"CPU": resources.num_cpus or 0, "GPU": resources.num_gpus or 0},
        retry_rejects=retry_rejects,
        excluded=excluded_of(pipeline, step),
        row_groups=dict(plan.row_groups),
        decisions=plan.review.decisions if plan.review else (),
        modules=pipeline.modules,
    )


def in_flight(job: Job, request: WorkerRequest, workers: int) -> int:
    """The number of a step's partitions in progress per worker.

    Enough rows to fill the busiest model's requests in flight several times over, so that slow rows and the writing of
    finished partitions do not leave it idle. Without a model, one partition is computed while another is written; more would
    only fill the memory.
    """
    if request.kind in ("compute", "whole"):
        return 2
    busiest = max((model.spec.most_in_flight for model in job.models.values()), default=0)
    rows = 16 if request.kind == "local" else 64
    return min(MOST_CONCURRENT // 2, max(_LEAST_IN_FLIGHT, -(-_ROWS_PER_REQUEST * busiest // (workers * rows))))


def _with_patience(spec: ModelSpec) -> ModelSpec:
    """Make a served model wait for its servers: the driver restarts them, and fails the step if that does not help."""
    if spec.serve is None or spec.limits.patience is not None:
        return spec
    patience = spec.serve.start_timeout + PATIENCE_SECONDS
    return spec.model_copy(update={"limits": spec.limits.model_copy(update={"patience": patience})})
