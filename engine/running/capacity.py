"""What the nodes of a cluster have, and what a step's workers get of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from engine.errors import StepError
from engine.running.executor import WorkerRequest
from engine.spec.pipeline_spec import Resources
from registry.counted import counted


class Amount(NamedTuple):
    """CPUs and GPUs."""

    cpus: float = 0.0
    gpus: float = 0.0

    def plus(self, other: Amount, times: float = 1) -> Amount:
        """The sum with `times` another one."""
        return Amount(self.cpus + times * other.cpus, self.gpus + times * other.gpus)

    def holds(self, other: Amount) -> bool:
        """Whether another one fits into it."""
        return other.cpus <= self.cpus + 1e-9 and other.gpus <= self.gpus + 1e-9


class Capacity(NamedTuple):
    """The nodes of a cluster."""

    nodes: tuple[Amount, ...]

    @classmethod
    def of(cls, nodes: Sequence[Mapping[str, float]]) -> Capacity:
        """From each node's resources, as Ray lists them."""
        return cls(tuple(Amount(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes))

    @property
    def total(self) -> Amount:
        """Of all nodes."""
        return Amount(sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes))

    def resources_for(self, request: WorkerRequest) -> Resources:
        """The resources of a step's workers and their number, with defaults for what the pipeline leaves open.

        A worker that waits for servers takes no CPU. A model in the worker gets all CPUs of a node (and a GPU, if there are
        any). Other operators get one CPU. A model behind an API needs one worker, whose requests overlap; an operator on whole
        inputs has one; others get as many as there are resources for. Several devices share a node.

        Raises:
            StepError: it asks for more than there is.
        """
        asked, devices = request.resources, request.devices
        largest = max((node.cpus for node in self.nodes), default=1.0)
        cpus, gpus = asked.num_cpus, asked.num_gpus
        local = request.kind == "local"
        if gpus is None:
            gpus = 1.0 if local and self.total.gpus >= 1 else 0.0
        if cpus is None and request.kind == "server":
            cpus = 0.0
        elif cpus is None:
            cpus = max(1.0, largest // devices) if local and not gpus else 1.0
        each = Amount(cpus, gpus)
        if cpus > largest or gpus > max((node.gpus for node in self.nodes), default=0.0):
            raise StepError(
                f"its `resources` ask for {counted(cpus, 'CPU')} and {counted(gpus, 'GPU')} per worker, but no node of the "
                f"cluster has that many (the largest has {counted(largest, 'CPU')})"
            )
        if devices > 1 and not self.total.holds(Amount().plus(each, devices)):
            raise StepError(
                f"{devices} devices with {counted(cpus, 'CPU')} and {counted(gpus, 'GPU')} each are more than the cluster "
                "has; reduce `resources`"
            )
        workers = asked.workers
        if workers is None:
            workers = int(max(1, self.total.cpus // max(cpus, 1))) if request.kind in ("local", "compute") else 1
            workers = min(workers, int(self.total.gpus // gpus)) if gpus else workers
        return Resources(num_cpus=cpus, num_gpus=gpus, memory=asked.memory, workers=max(1, workers))
