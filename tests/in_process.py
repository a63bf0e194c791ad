"""Executors of tests: real workers in the test's own process, without Ray, and one that must not be used.

What Ray adds (processes, nodes, replacement of lost workers) is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from engine.jobs.messages import Job, Partition
from engine.llm.types.model_spec import Address
from engine.llm.weights import local_weights
from engine.running.executor import Result, Server, WorkerRequest
from engine.serving.launch import Launch, Status
from engine.serving.replica import Replica
from engine.spec.pipeline_spec import Resources
from engine.worker.host import Host


class InProcessServer:
    """See engine.running.executor.Server."""

    gpus = 0.0

    def __init__(self, launch: Launch) -> None:
        self._replica = Replica(launch, "127.0.0.1", lambda: launch.weights and local_weights(launch.weights, None))
        self._stopping: threading.Thread | None = None

    def look(self) -> Status:
        """How it is."""
        return self._replica.status

    def stop(self) -> None:
        """Begin to end it."""
        if self._stopping is None:
            self._stopping = threading.Thread(target=self._replica.stop, daemon=True)
            self._stopping.start()

    def has_stopped(self) -> bool:
        """Whether it has ended."""
        return self._stopping is not None and not self._stopping.is_alive()

    def kill(self) -> None:
        """Wait until it has ended."""
        self._replica.stop()


class InProcess:
    """See engine.running.executor.Executor. All partitions run on one event loop, as in an actor, in a thread: the test may have
    a loop of its own.
    """

    def __init__(self, room: int = 8) -> None:
        self._room = room
        self._loop: asyncio.AbstractEventLoop | None = None
        self._host: Host | None = None
        self._running: dict[str, int] = {}
        self._results: queue.Queue[Result] = queue.Queue()
        self._addresses: dict[str, tuple[Address, ...]] = {}

    def start(self, *, shared_limits: bool) -> None:
        """Start the loop."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End what still runs, and the loop."""
        if self._loop is None:
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop, self._host = None, None

    def place(self, request: WorkerRequest) -> Resources | None:
        """One worker."""
        return request.resources.model_copy(update={"num_cpus": request.resources.num_cpus or 1, "workers": 1})

    def open(self, job: Job, request: WorkerRequest, resources: Resources) -> None:
        """Make a worker."""
        self._running[job.step] = 0
        self._call(self._open(Job.model_validate_json(job.model_dump_json())))  # as data, because that is how jobs travel

    def room(self, step: str) -> int:
        """Of a few partitions."""
        return self._room - self._running[step]

    def submit(self, step: str, part: Partition) -> None:
        """Run it on the loop."""
        assert self._loop
        self._running[step] += 1
        asyncio.run_coroutine_threadsafe(self._run(step, part), self._loop)

    def next(self, seconds: float) -> Result | None:
        """The next result."""
        try:
            result = self._results.get(timeout=seconds)
        except queue.Empty:
            return None
        self._running[result.step] -= 1
        return result

    def halt(self, step: str) -> None:
        """Send no more requests."""
        self._call(self._on_host("stop", step))

    def close(self, step: str) -> None:
        """End the worker."""
        self._call(self._on_host("end", step))

    def check_room(self, servers: Sequence[Launch], request: WorkerRequest) -> None:
        """There is room for everything."""

    def start_servers(self, servers: Sequence[Launch], request: WorkerRequest) -> list[Server] | None:
        """Start them as processes of this machine."""
        return [InProcessServer(each) for each in servers]

    @property
    def lacks_room(self) -> bool:
        """There is room for everything."""
        return False

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """Tell the worker."""
        if self._loop:
            self._call(self._serve(model, addresses))

    async def _serve(self, model: str, addresses: Sequence[Address]) -> None:
        self._addresses[model] = tuple(addresses)
        if self._host:
            self._host.serve(model, addresses)

    def _call(self, work: Any) -> Any:
        assert self._loop
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _on_host(self, method: str, step: str) -> None:
        assert self._host
        getattr(self._host, method)(step)

    async def _open(self, job: Job) -> None:
        if self._host is None:
            self._host = Host(job.registry)
            for model, addresses in self._addresses.items():
                self._host.serve(model, addresses)
        self._host.open(job)

    async def _run(self, step: str, part: Partition) -> None:
        assert self._host
        self._results.put(Result(step, await self._host.run(step, part)))

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._host:
            await self._host.close()


class Unused(InProcess):
    """Fails the test when it is started."""

    def start(self, *, shared_limits: bool) -> None:
        """Fail."""
        pytest.fail("a cluster was started")
