"""What the servers of models need of a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import StepError
from engine.llm.types.serve_spec import ServeSpec
from engine.running.capacity import Amount, Capacity
from engine.running.executor import WorkerRequest
from engine.serving.launch import Launch
from engine.spec.pipeline_spec import Resources

_ON_GPUS = {"vllm", "transformers"}


def resources_of(serve: ServeSpec, capacity: Capacity) -> Resources:
    """The resources of one server, with defaults for what the pipeline leaves open; see ServeSpec."""
    gpus = serve.num_gpus
    if gpus is None:
        gpus = 1.0 if serve.engine in _ON_GPUS and capacity.total.gpus >= 1 else 0.0
    cpus = (1.0 if gpus else 0.0) if serve.num_cpus is None else serve.num_cpus
    return Resources(num_cpus=cpus, num_gpus=gpus, memory=serve.memory)


def check_room(capacity: Capacity, servers: Sequence[Launch], request: WorkerRequest) -> None:
    """Check that the servers of a step's models and one of its workers fit on the nodes at the same time.

    Raises:
        StepError: they need more than there is.
    """
    resources = {each.title: resources_of(each.serve, capacity) for each in servers}
    worker = capacity.resources_for(request)
    amounts = [Amount(each.num_cpus or 0.0, each.num_gpus or 0.0) for each in resources.values()]
    amounts += [Amount(worker.num_cpus or 0.0, worker.num_gpus or 0.0)] * request.devices
    if _fit(capacity.nodes, amounts):
        return
    models: dict[str, list[Resources]] = {}
    for each in servers:
        models.setdefault(each.model, []).append(resources[each.title])
    asked = ", ".join(
        f"model {name!r}: {len(each)} x {each[0].num_cpus:g} CPUs and {each[0].num_gpus:g} GPUs"
        for name, each in models.items()
    )
    nodes = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in capacity.nodes)
    raise StepError(
        f"the servers of its models ({asked}) and a worker ({worker.num_cpus:g} CPUs and {worker.num_gpus:g} GPUs) do not fit "
        f"on the nodes of the cluster ({nodes}). Reduce serve.replicas, serve.num_gpus or serve.num_cpus, or run on more nodes"
    )


def _fit(nodes: Sequence[Amount], amounts: Sequence[Amount]) -> bool:
    """Whether amounts fit on nodes: the largest first, each on the emptiest node."""
    left = list(nodes)
    for amount in sorted(amounts, key=lambda each: (each.gpus, each.cpus), reverse=True):
        fitting = [place for place, node in enumerate(left) if node.holds(amount)]
        if not fitting:
            return False
        # What needs no GPU goes to the node with the fewest.
        best = max(fitting, key=lambda place: (left[place].gpus if amount.gpus else -left[place].gpus, left[place].cpus))
        left[best] = left[best].plus(amount, -1)
    return True
