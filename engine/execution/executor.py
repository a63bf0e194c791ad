"""The interface to what executes a run's partitions: a Ray cluster, or (for previews and tests) this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from engine.jobs.messages import Failure, Job, Partition, Receipt
from engine.llm.types.model_spec import Address
from engine.serving.launch import Launch, Served, Status
from engine.spec.pipeline_spec import Resources

Kind = Literal["server", "local", "compute", "whole"]
"""What a step's workers do: wait for servers, generate or encode in the process, compute, or work on whole inputs. Steps of one
kind with the same resources share processes, except those on whole inputs: they may compute for hours without a pause."""


class WorkerRequest(NamedTuple):
    """What a step asks for.

    Args:
        resources: the resources of each worker, as the pipeline states them, and the number of workers.
        devices: the number of devices of a training; they get the resources instead of the worker.
    """

    step: str
    kind: Kind
    resources: Resources
    devices: int = 1


class Result(NamedTuple):
    """The outcome of a partition of a step. Every submitted partition gets one, whatever happens to its worker."""

    step: str
    result: Receipt | Failure


class Death(NamedTuple):
    """The death of a worker process.

    Args:
        steps: the steps whose partitions it was running; they run again.
        out_of_memory: whether it was killed because its machine had no memory left.
    """

    steps: tuple[str, ...]
    out_of_memory: bool


class Server(Protocol):
    """A server of a model that an executor has started. No method waits.

    Attributes:
        gpus: the number of GPUs that it holds.
    """

    gpus: float

    def look(self) -> Status:
        """The server's current state."""

    def change(self, models: tuple[Served, ...]) -> None:
        """Make it serve these adapters from now on. Only for a server with room for adapters; see Launch."""

    def stop(self) -> None:
        """Ask it to end; `has_stopped` says when it has."""

    def has_stopped(self) -> bool:
        """Whether all its processes have ended and its resources are free."""

    def kill(self) -> None:
        """Kill all its processes at once."""


class Executor(Protocol):
    """Started when the first partition has to run, stopped when the run ends. Use from one thread."""

    def start(self, *, shared_limits: bool) -> None:
        """Get ready. Further calls do nothing.

        Args:
            shared_limits: whether several processes use the same models, so that one process has to keep their limits.

        Raises:
            EngineError: nothing can be executed; the text says why.
        """

    def stop(self) -> None:
        """Release what `start` took. Partitions that are running are lost."""

    def place(self, request: WorkerRequest) -> Resources | None:
        """The resources of a step's workers and their number, with defaults for what the pipeline leaves open; None while
        others use what it needs.

        Raises:
            StepError: it needs more than there is.
        """

    def open(self, job: Job, request: WorkerRequest, resources: Resources) -> None:
        """Start the workers of a step that has been placed; see `place`."""

    def room(self, step: str) -> int:
        """How many more partitions of an open step should be submitted now."""

    def submit(self, step: str, part: Partition) -> None:
        """Run a partition of an open step."""

    def next(self, seconds: float) -> Result | None:
        """The next result of any step; None if there is none within that time, or nothing has been started."""

    def halt(self, step: str) -> None:
        """Send no more requests for a step. Its partitions end soon."""

    def close(self, step: str) -> None:
        """End a step's workers; no partition of it is running any more."""

    def check_room(self, servers: Sequence[Launch], request: WorkerRequest) -> None:
        """Check that a step and the servers of its models fit at the same time.

        Raises:
            StepError: they need more than there is.
        """

    def start_servers(self, servers: Sequence[Launch], request: WorkerRequest | None) -> list[Server] | None:
        """Start servers for a step; None while others use what they and the step need.

        Args:
            servers: the servers to start, all or none.
            request: the step's workers; None if only the servers need room, because the step has its workers already.

        Raises:
            StepError: they need more than there is.
        """

    @property
    def lacks_room(self) -> bool:
        """Whether, since the last call, partitions waited because there was no room for a worker."""

    def deaths(self) -> Sequence[Death]:
        """The deaths of worker processes since the last call whose partitions run again."""

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """Tell all present and future workers where the servers of a model answer now."""
