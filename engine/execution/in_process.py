"""An executor with its workers in this process, without Ray: for a few rows, a preview or a test. Ray takes 7 s to start."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from typing import Any

from engine.execution.executor import Death, Result, Server, WorkerRequest
from engine.execution.server_room import check_programs
from engine.jobs.messages import Job, Partition
from engine.llm.types.model_spec import Address
from engine.own_loop import LoopThread
from engine.serving.launch import Launch, Served, Status
from engine.serving.replica import Replica
from engine.spec.pipeline_spec import Resources
from engine.worker.host import Host
from registry import Registry


class InProcessServer:
    """See engine.execution.executor.Server."""

    gpus = 0.0

    def __init__(self, launch: Launch, registry: Registry) -> None:
        self._replica = Replica(launch, "127.0.0.1", registry.store)
        self._stopping: threading.Thread | None = None

    def look(self) -> Status:
        """See Server."""
        return self._replica.status

    def change(self, models: tuple[Served, ...]) -> None:
        """See Server."""
        self._replica.change(models)

    def stop(self) -> None:
        """See Server."""
        if self._stopping is None:
            self._stopping = threading.Thread(target=self._replica.stop, daemon=True)
            self._stopping.start()

    def has_stopped(self) -> bool:
        """See Server."""
        return self._stopping is not None and not self._stopping.is_alive()

    def kill(self) -> None:
        """See Server. Waits until it has ended."""
        self._replica.stop()


class InProcess:
    """See engine.execution.executor.Executor. All partitions run on one event loop, as in an actor, in its own thread,
    because the caller may have a loop and waits for results.

    Args:
        room: the maximum number of partitions of a step in progress.
        registry: the registry that the workers read and write (default: the registry that a job names).
    """

    def __init__(self, room: int = 8, registry: Registry | None = None) -> None:
        self._room = room
        self._registry = registry
        self._loop: LoopThread | None = None
        self._host: Host | None = None
        self._running: dict[str, int] = {}
        self._results: queue.Queue[Result] = queue.Queue()
        self._addresses: dict[str, tuple[Address, ...]] = {}

    def start(self, *, shared_limits: bool) -> None:
        """See Executor. Starts the event loop."""
        if self._loop is None:
            self._loop = LoopThread("in-process")

    def stop(self) -> None:
        """See Executor. Cancels what is running, and ends the event loop."""
        if self._loop is None:
            return
        self._loop.cancel()
        if self._host:
            self._loop.call(self._host.close())
        self._loop.close()
        self._loop, self._host = None, None

    def place(self, request: WorkerRequest) -> Resources | None:
        """See Executor. One worker; a model in it gets all CPUs."""
        cpus = request.resources.num_cpus or (os.cpu_count() or 1 if request.kind == "local" else 1)
        return request.resources.model_copy(update={"num_cpus": cpus, "workers": 1})

    def open(self, job: Job, request: WorkerRequest, resources: Resources) -> None:
        """See Executor. Starts a worker."""
        self._running[job.step] = 0
        self._call(self._open(Job.model_validate_json(job.model_dump_json())))  # as data, because jobs are sent as data

    def room(self, step: str) -> int:
        """See Executor. Only a few partitions are in progress at a time."""
        return self._room - self._running[step]

    def submit(self, step: str, part: Partition) -> None:
        """See Executor. Runs the partition on the event loop."""
        assert self._loop
        self._running[step] += 1
        self._loop.begin(self._run(step, part))

    def next(self, seconds: float) -> Result | None:
        """See Executor."""
        try:
            result = self._results.get(timeout=seconds)
        except queue.Empty:
            return None
        self._running[result.step] -= 1
        return result

    def halt(self, step: str) -> None:
        """See Executor."""
        self._call(self._stop(step))

    def close(self, step: str) -> None:
        """See Executor."""
        assert self._host
        self._call(self._host.end(step))

    def check_room(self, servers: Sequence[Launch], request: WorkerRequest) -> None:
        """See Executor. Everything fits; only the programs have to be installed."""
        check_programs(servers)

    def start_servers(self, servers: Sequence[Launch], request: WorkerRequest | None) -> list[Server] | None:
        """See Executor. Starts them as processes on this machine."""
        assert self._registry, "servers need a registry, which has the weights"
        return [InProcessServer(each.unreserved(), self._registry) for each in servers]

    @property
    def lacks_room(self) -> bool:
        """See Executor. Everything fits."""
        return False

    def deaths(self) -> Sequence[Death]:
        """See Executor. Its only process is this one."""
        return ()

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """See Executor."""
        if self._loop:
            self._call(self._serve(model, addresses))

    async def _serve(self, model: str, addresses: Sequence[Address]) -> None:
        self._addresses[model] = tuple(addresses)
        if self._host:
            self._host.serve(model, addresses)

    def _call(self, work: Any) -> Any:
        assert self._loop
        return self._loop.call(work)

    async def _stop(self, step: str) -> None:
        assert self._host
        self._host.stop(step)

    async def _open(self, job: Job) -> None:
        if self._host is None:
            self._host = Host(self._registry or Registry(job.registry))
            for model, addresses in self._addresses.items():
                self._host.serve(model, addresses)
        self._host.open(job)

    async def _run(self, step: str, part: Partition) -> None:
        assert self._host
        self._results.put(Result(step, await self._host.run(step, part)))
