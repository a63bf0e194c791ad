"""The resources of a cluster's nodes, a step's share of them, and whether that fits beside what is running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from engine.errors import StepError
from engine.execution.executor import WorkerRequest
from engine.spec.pipeline_spec import Resources
from registry.counted import counted

_GIB = 1 << 30
_SHOWN = 4


class Amount(NamedTuple):
    """CPUs, GPUs, and bytes of memory."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory: float = 0.0

    @classmethod
    def of(cls, resources: Resources) -> Amount:
        """The CPUs, GPUs and memory that one worker with these resources takes."""
        return cls(resources.num_cpus or 0.0, resources.num_gpus or 0.0, resources.memory or 0.0)

    def without(self, other: Amount) -> Amount:
        """What is left when the other amount is taken away."""
        return Amount(*(mine - taken for mine, taken in zip(self, other, strict=True)))

    def holds(self, other: Amount) -> bool:
        """Whether the other amount fits into this one."""
        return all(asked <= mine + 1e-9 for mine, asked in zip(self, other, strict=True))

    def times(self, other: Amount) -> int:
        """How often the other amount fits into this one. It counts as one CPU at least."""
        asked = other._replace(cpus=max(other.cpus, 1.0))
        return int(min((mine + 1e-9) // each for mine, each in zip(self, asked, strict=True) if each))

    def __str__(self) -> str:
        parts = [counted(self.cpus, "CPU")]
        parts += [counted(self.gpus, "GPU")] if self.gpus else []
        parts += [f"{self.memory / _GIB:.3g} GiB of memory"] if self.memory else []
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


class Capacity(NamedTuple):
    """The nodes of a cluster."""

    nodes: tuple[Amount, ...]

    @classmethod
    def of(cls, nodes: Sequence[Mapping[str, float]]) -> Capacity:
        """From each node's resources, as Ray lists them."""
        return cls(tuple(Amount(node.get("CPU", 0), node.get("GPU", 0), node.get("memory", 0)) for node in nodes))

    def has_room(self, asked: Sequence[Amount], *, beside: Iterable[Amount]) -> bool:
        """Whether each of the amounts fits on a node, beside those that are taken.

        Only Ray knows on which node each of them is. Like Ray, this places each amount, the largest first, on the emptiest node
        that can hold it; amounts without a GPU preferably on nodes without GPUs.
        """
        left = [*self.nodes]

        def lay(amount: Amount) -> bool:
            fitting = [place for place, node in enumerate(left) if node.holds(amount)]
            if fitting:
                place = max(fitting, key=lambda place: _worth(left[place], amount))
                left[place] = left[place].without(amount)
            return bool(fitting)

        for amount in sorted(beside, reverse=True):
            lay(amount)
        return all(lay(amount) for amount in sorted(asked, reverse=True))

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
            gpus = 1.0 if local and any(node.gpus >= 1 for node in self.nodes) else 0.0
        if cpus is None and request.kind == "server":
            cpus = 0.0
        elif cpus is None:
            cpus = max(1.0, largest // devices) if local and not gpus else 1.0
        each = Amount(cpus, gpus, asked.memory or 0.0)
        if not any(node.holds(each) for node in self.nodes):
            raise StepError(
                f"its `resources` ask for {each} per worker, but no node of the cluster has that much "
                f"({self.in_words}); reduce `resources`"
            )
        if devices > 1 and not self.has_room([each] * devices, beside=()):
            raise StepError(
                f"{devices} devices with {each} each do not fit on the nodes of the cluster ({self.in_words}); "
                "reduce `resources`"
            )
        workers = asked.workers
        if workers is None:
            most = sum(node.times(each) for node in self.nodes)
            workers = most if request.kind in ("local", "compute") else 1
        return Resources(num_cpus=cpus, num_gpus=gpus, memory=asked.memory, workers=max(1, workers))

    @property
    def in_words(self) -> str:
        """The nodes for a message, the largest first; equal nodes are listed once."""
        kinds = [*dict.fromkeys(map(str, sorted(self.nodes, reverse=True)))]
        more = f"; {len(kinds) - _SHOWN} other kinds" if len(kinds) > _SHOWN else ""
        return f"its nodes have {'; '.join(kinds[:_SHOWN])}{more}"


def _worth(node: Amount, amount: Amount) -> tuple[float, ...]:
    """How well an amount fits on a node, for comparison; larger is better."""
    return (0.0 if amount.gpus or not node.gpus else -1.0, node.gpus if amount.gpus else 0.0, node.cpus, node.memory)
