"""A pool of Ray actors that run a step's partitions, and the actor through which they share limits and the journal.

Ray only carries messages. The driver decides which worker runs which partition, and who takes over from a worker that died.
The others continue at once while a new worker starts.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.errors import EngineError, StepError
from engine.jobs.messages import Failure, Job, Partition, Receipt
from engine.llm.limits.accounting import Spent
from engine.running.ray_environment import Home
from engine.spec.pipeline_spec import Resources

_MOST_FAILED_STARTS = 3
"""If this many workers in a row die before they are ready, the next one would, too."""

_SERVICE_SECONDS = 30.0


@dataclass
class _Slot:
    """A slot in the pool: an actor and the partitions it is running."""

    name: str
    actor: Any
    starting: Any
    running: dict[Any, Partition] = field(default_factory=dict)

    @property
    def waited_for(self) -> list[Any]:
        return [self.starting] if self.starting is not None else list(self.running)


class Pool:
    """Workers for one job.

    Args:
        job: what the partitions share.
        resources: of each worker, and the number of workers.
        in_flight: partitions in progress per worker.
        home: the working folder and import path of workers on this machine (None: Ray's own).
        shared: the workers share limits and journal through a Service.
    """

    def __init__(self, job: Job, resources: Resources, in_flight: int, home: Home | None, *, shared: bool) -> None:
        import ray

        self._job = job.model_dump_json()
        self._in_flight = in_flight
        self._home = home
        self._node = ray.get_runtime_context().get_node_id()
        self._service = _start_service(self._job, self._node) if shared else None
        self._worker = ray.remote(_RayWorker).options(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus or None,
            memory=resources.memory,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=in_flight + 1,
            scheduling_strategy="SPREAD",
        )
        self._numbers = itertools.count(1)
        self._failed_starts = 0
        self._queue: deque[Partition] = deque()
        self._slots = [self._slot() for _ in range(resources.workers or 1)]

    def results(self, parts: Sequence[Partition]) -> Iterator[Receipt | Failure]:
        """Run partitions and yield each result as it arrives, in any order.

        The last one includes what all workers, even those that died, spent through the Service.

        Raises:
            StepError: no worker can be started, or Ray itself has died.
        """
        from ray.exceptions import RayError

        self._queue.extend(parts)
        try:
            for left in range(len(parts) - 1, -1, -1):
                result = self._next()
                yield result if left else self._with_account(result)
        except RayError as error:
            raise StepError(f"a worker was lost and could not be replaced: {_last_line(error)}") from error

    def close(self) -> None:
        """End the workers."""
        import ray
        from ray.exceptions import RayError

        for actor in (*(slot.actor for slot in self._slots), self._service):
            if actor is not None:
                with contextlib.suppress(RayError):  # Ray itself has died, and its workers with it
                    ray.kill(actor)

    def _next(self) -> Receipt | Failure:
        """The next result; workers that die meanwhile are replaced."""
        import ray
        from ray.exceptions import ObjectLostError, RayActorError

        while True:
            self._submit()
            slots = {ref: slot for slot in self._slots for ref in slot.waited_for}
            [done], _ = ray.wait(list(slots), num_returns=1)
            slot = slots[done]
            try:
                result = ray.get(done)
            except (RayActorError, ObjectLostError) as error:
                self._replace(slot, error)
                continue
            if done == slot.starting:
                slot.starting, self._failed_starts = None, 0
                continue
            del slot.running[done]
            failed, text = result
            return (Failure if failed else Receipt).model_validate_json(text)

    def _submit(self) -> None:
        """Send partitions to workers that are ready, first to the one with the fewest."""
        ready = [slot for slot in self._slots if slot.starting is None]
        while self._queue and ready:
            slot = min(ready, key=lambda slot: len(slot.running))
            if len(slot.running) >= self._in_flight:
                return
            part = self._queue.popleft()
            slot.running[slot.actor.run.remote(part.start, part.stop)] = part

    def _replace(self, slot: _Slot, error: Exception) -> None:
        """Replace a worker that died; others take over its partitions and its share of the limits."""
        import ray

        ray.kill(slot.actor)  # it may only be disconnected; then it must not continue
        if self._service is not None:
            self._service.call.remote("remove_worker", slot.name)
        if slot.starting is not None:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS or "creation task" in str(error):
                raise StepError(f"a worker could not be started: {_last_line(error)}") from error
        self._queue.extendleft(reversed(slot.running.values()))
        self._slots[self._slots.index(slot)] = self._slot()

    def _slot(self) -> _Slot:
        name = f"worker {next(self._numbers)}"
        actor = self._worker.remote(self._job, self._service, self._node, name, self._home)
        return _Slot(name, actor, actor.ready.remote())

    def _with_account(self, result: Receipt | Failure) -> Receipt | Failure:
        import ray

        if self._service is None:
            return result
        account: dict[str, Spent] = ray.get(self._service.call.remote("spent"), timeout=_SERVICE_SECONDS)
        spent = {name: result.spent.get(name, Spent()) + more for name, more in account.items()}
        return result.model_copy(update={"spent": {**result.spent, **spent}})


class _RayWorker:
    """A Ray actor around a Worker; `service` is shared by several workers, and is on the driver's node."""

    def __init__(self, job: str, service: Any, driver_node: str, name: str, home: Home | None) -> None:
        import ray

        if home is not None:
            home.enter()

        from engine.worker.partition_worker import Worker

        # The journal's thread must not wait 5 ms for the interpreter, because requests in flight wait for it.
        sys.setswitchinterval(0.0005)
        remote = service is not None and ray.get_runtime_context().get_node_id() != driver_node
        transport = _RayTransport(service) if service is not None else None
        self._worker = Worker(Job.model_validate_json(job), transport, name, remote=remote)

    async def ready(self) -> None:
        """Return once the worker can take partitions."""

    async def run(self, start: int, stop: int) -> tuple[bool, str]:
        """Run a partition; returns whether it failed, and the Receipt or Failure as JSON."""
        result = await self._worker.run(Partition(start=start, stop=stop))
        await self._worker.models.delivered()
        return isinstance(result, Failure), result.model_dump_json()


class _RayService:
    """A Ray actor around a Service."""

    def __init__(self, job: str) -> None:
        from engine.llm.shared_service import Service
        from engine.worker.models import governor
        from registry import Registry

        given = Job.model_validate_json(job)
        models = {binding.name: partial(governor, binding) for binding in given.models.values()}
        self._service = Service(Registry(given.registry).journal, models)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the Service."""
        return await getattr(self._service, method)(*arguments)


class _RayTransport:
    """See Transport."""

    def __init__(self, service: Any) -> None:
        self._service = service

    async def call(self, method: str, *arguments: Any) -> Any:
        """See Transport."""
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return await self._service.call.remote(method, *arguments)
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            raise EngineError("the process through which workers share limits and the journal has died; run again") from error


def _start_service(job: str, node: str) -> Any:
    """A Service on the driver's node, which is the only place where the journal's file may be opened."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_RayService).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here).remote(job)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
