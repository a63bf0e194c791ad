"""An executor for tests, which decides which partition finishes next, which ones fail, and when everything is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from engine.execution.executor import Death, Result, Server, WorkerRequest
from engine.jobs.messages import Failure, Job, Partition
from engine.llm.types.model_spec import Address
from engine.serving.launch import Launch
from engine.spec.pipeline_spec import Resources
from engine.worker.host import Host
from registry import Registry


class KilledError(BaseException):
    """Stands for the end of the driver: nothing catches it."""


class NoServers:
    """The part of an executor that starts model servers, for tests without any."""

    lacks_room = False

    def check_room(self, servers: Sequence[Launch], request: WorkerRequest) -> None:
        """Fail."""
        raise NotImplementedError

    def start_servers(self, servers: Sequence[Launch], request: WorkerRequest | None) -> list[Server] | None:
        """Fail."""
        raise NotImplementedError

    def deaths(self) -> Sequence[Death]:
        """No process dies."""
        return ()

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """Fail."""
        raise NotImplementedError


class Scripted(NoServers):
    """See engine.execution.executor.Executor. A partition runs when it is chosen, in this thread.

    Args:
        choose: chooses one of so many partitions that could finish next, by its index; None: none finishes yet.
        fate: is called before each partition. It may raise KilledError, or return a message with which the partition fails.
        room: the maximum number of partitions of a step in progress.
        busy: whether others use the workers that a step asks for.
    """

    def __init__(
        self,
        choose: Callable[[int], int | None],
        fate: Callable[[], str | None] = lambda: None,
        room: int = 3,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._choose = choose
        self._fate = fate
        self._room = room
        self._busy = busy
        self._loop = asyncio.new_event_loop()
        self._host: Host | None = None
        self._running: list[tuple[str, Partition]] = []
        self.most_steps_at_once = 0

    def start(self, *, shared_limits: bool) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Close the loop."""
        if self._host:
            self._loop.run_until_complete(self._host.close())
        self._loop.close()

    def place(self, request: WorkerRequest) -> Resources | None:
        """One worker, unless others are busy."""
        if self._running and self._busy():
            return None
        return request.resources.model_copy(update={"num_cpus": 1, "workers": 1})

    def open(self, job: Job, request: WorkerRequest, resources: Resources) -> None:
        """Make a worker."""
        self._host = self._host or Host(Registry(job.registry))
        self._host.open(Job.model_validate_json(job.model_dump_json()))

    def room(self, step: str) -> int:
        """For a few."""
        return self._room - sum(running == step for running, _ in self._running)

    def submit(self, step: str, part: Partition) -> None:
        """Remember it."""
        self._running.append((step, part))
        self.most_steps_at_once = max(self.most_steps_at_once, len({step for step, _ in self._running}))

    def next(self, seconds: float) -> Result | None:
        """The one that is chosen."""
        if not self._running or (number := self._choose(len(self._running))) is None:
            return None
        step, part = self._running.pop(number)
        if message := self._fate():
            return Result(step, Failure(digest=part.digest, message=message))
        assert self._host
        return Result(step, self._loop.run_until_complete(self._host.run(step, part)))

    def halt(self, step: str) -> None:
        """Send no more requests."""
        assert self._host
        self._host.stop(step)

    def close(self, step: str) -> None:
        """End the worker."""
        assert self._host
        self._loop.run_until_complete(self._host.end(step))
