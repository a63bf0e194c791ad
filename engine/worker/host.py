"""A worker process: a worker for each step that uses it. They share limits, connections and loaded models."""

from __future__ import annotations

from collections.abc import Sequence

from engine.jobs.messages import Failure, Job, Partition, Receipt
from engine.llm.shared_service import Transport
from engine.llm.types.model_spec import Address
from engine.packages.local_modules import use_local_modules
from engine.worker.partition_worker import Worker
from engine.worker.shared_models import SharedModels
from registry import Registry


class Host:
    """The workers of one process, by step. Use from one event loop.

    Args:
        registry: the run's registry.
        transport, name, remote: see SharedModels.
    """

    def __init__(
        self, registry: Registry, transport: Transport | None = None, name: str | None = None, *, remote: bool = False
    ) -> None:
        self._registry = registry
        self._shared = SharedModels(self._registry, transport, name, remote=remote)
        self._workers: dict[str, Worker] = {}

    def open(self, job: Job) -> None:
        """Get ready to run a step's partitions."""
        use_local_modules(job.modules)
        self._workers[job.step] = Worker(job, self._registry, self._shared)

    async def run(self, step: str, part: Partition) -> Receipt | Failure:
        """Run a partition of an open step."""
        result = await self._workers[step].run(part)
        await self._shared.delivered()
        return result

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """See SharedModels.serve."""
        self._shared.serve(model, addresses)

    def stop(self, step: str) -> None:
        """See Worker.stop."""
        self._workers[step].stop()

    async def end(self, step: str) -> None:
        """Forget a step that needs no worker any more."""
        if step in self._workers:
            self._workers.pop(step).close()
            await self._shared.release(step)

    async def close(self) -> None:
        """End all workers, and release what they share."""
        for worker in self._workers.values():
            worker.close()
        await self._shared.close()
