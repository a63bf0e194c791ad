"""The resources that the servers of models need in a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import StepError
from engine.execution.capacity import Amount, Capacity
from engine.execution.executor import WorkerRequest
from engine.llm.types.serve_spec import ServeSpec
from engine.pipeline.served_models import missing_program, named_cluster
from engine.serving.launch import Launch
from engine.spec.pipeline_spec import Resources

_ON_GPUS = {"vllm", "transformers"}


def resources_of(serve: ServeSpec, capacity: Capacity) -> Resources:
    """The resources of one server, with defaults for what the pipeline leaves open; see ServeSpec."""
    gpus = serve.num_gpus
    if gpus is None:
        gpus = 1.0 if serve.engine in _ON_GPUS and any(node.gpus >= 1 for node in capacity.nodes) else 0.0
    cpus = (1.0 if gpus else 0.0) if serve.num_cpus is None else serve.num_cpus
    return Resources(num_cpus=cpus, num_gpus=gpus, memory=serve.memory)


def check_programs(servers: Sequence[Launch]) -> None:
    """Check that the programs of servers are installed, if the servers are started on this machine.

    Raises:
        StepError: one is missing.
    """
    for each in servers if not named_cluster() else ():
        if why := missing_program(each.serve):
            raise StepError(f"{each.title} cannot be started: {why}")


def check_room(capacity: Capacity, servers: Sequence[Launch], request: WorkerRequest) -> None:
    """Check that the servers of a step's models and one of its workers fit on the nodes at the same time.

    Raises:
        StepError: they need more than there is.
    """
    resources = {each.title: resources_of(each.serve, capacity) for each in servers}
    worker = capacity.resources_for(request)
    amounts = [Amount.of(each) for each in resources.values()]
    if capacity.has_room([*amounts, *[Amount.of(worker)] * request.devices], beside=()):
        return
    models: dict[str, list[Resources]] = {}
    for each in servers:
        models.setdefault(each.models[0].model, []).append(resources[each.title])
    asked = ", ".join(f"model {name!r}: {len(each)} x {Amount.of(each[0])}" for name, each in models.items())
    raise StepError(
        f"the servers of its models ({asked}) and a worker ({Amount.of(worker)}) do not fit "
        f"on the nodes of the cluster ({capacity.in_words}). Reduce serve.replicas, serve.num_gpus or "
        "serve.num_cpus, or run on more nodes"
    )
