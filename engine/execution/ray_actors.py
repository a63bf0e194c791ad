"""The Ray actors of a run: processes with the steps' workers, and one process that keeps what all of them share."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Sequence
from typing import Any

from engine.errors import EngineError
from engine.execution.ray_environment import Home
from engine.jobs.messages import Failure, Job, Partition
from engine.llm.types.model_spec import Address
from engine.spec.pipeline_spec import Resources


class RayHost:
    """A Ray actor around a Host; `service` is a RayService on the driver's node, or None."""

    def __init__(self, registry: str, service: Any, driver_node: str, name: str, home: Home | None) -> None:
        import ray

        if home is not None:
            home.enter()

        from engine.worker.host import Host
        from registry import Registry

        # The rows of a partition live together. Looking for cycles every 700 allocations takes an eighth of a computing step.
        gc.set_threshold(10_000)
        remote = service is not None and ray.get_runtime_context().get_node_id() != driver_node
        transport = _RayTransport(service) if service is not None else None
        self._host = Host(Registry(registry), transport, name, remote=remote)

    async def ready(self) -> None:
        """Return once the process can take steps."""

    async def open(self, job: str) -> None:
        """Take on a step, given as JSON."""
        taken = Job.model_validate_json(job)
        if taken.models:
            # The journal's thread must not wait 5 ms for the interpreter, because requests in flight wait for it. Steps without
            # models keep the default, because switching costs time.
            sys.setswitchinterval(0.0005)
        self._host.open(taken)

    async def run(self, step: str, parts: Sequence[str]) -> list[tuple[bool, str]]:
        """Run partitions, given as JSON, one after another; returns for each whether it failed, and the Receipt or Failure as
        JSON.
        """
        results = [await self._host.run(step, Partition.model_validate_json(part)) for part in parts]
        return [(isinstance(result, Failure), result.model_dump_json()) for result in results]

    async def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """See SharedModels.serve."""
        self._host.serve(model, addresses)

    async def stop(self, step: str) -> None:
        """See Host.stop."""
        self._host.stop(step)

    async def end(self, step: str) -> None:
        """See Host.end."""
        await self._host.end(step)


class RayService:
    """A Ray actor around a Service."""

    def __init__(self, registry: str) -> None:
        from engine.llm.shared_service import Service
        from registry import Registry

        self._service = Service(Registry(registry).journal)

    async def add_models(self, job: str) -> None:
        """Keep the limits of a job's models, given as JSON."""
        for binding in Job.model_validate_json(job).models.values():
            if binding.shared:
                await self._service.add_model(binding.name, binding.spec, binding.spent)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the Service."""
        return await getattr(self._service, method)(*arguments)


class _RayTransport:
    """See Transport."""

    def __init__(self, service: Any) -> None:
        self._service = service

    async def call(self, method: str, *arguments: Any) -> Any:
        """See Transport."""
        from ray.exceptions import RayTaskError

        try:
            return await self._service.call.remote(method, *arguments)
        except RayTaskError as error:
            raise error.cause from error
        except death_errors() as error:
            raise EngineError("the process through which workers share limits and the journal has died; run again") from error


def start_service(registry: str, node: str) -> Any:
    """A Service on the driver's node, which is the only place where the journal's file may be opened."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(RayService).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here).remote(registry)


def actor_class(cls: type, resources: Resources, calls_at_once: int) -> Any:
    """A class as a Ray actor with these resources. Ray restarts and repeats nothing: the run decides what is done again."""
    import ray

    return ray.remote(cls).options(
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus or None,
        memory=resources.memory,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=calls_at_once,
        scheduling_strategy="SPREAD",
    )


def death_errors() -> tuple[type[Exception], ...]:
    """Ray's errors for a call to an actor whose process has died. Those for a lack of memory are no RayActorError."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

    return RayActorError, NodeDiedError, OutOfMemoryError


def kill(actor: Any) -> None:
    """End an actor's process."""
    import ray
    from ray.exceptions import RayError

    with contextlib.suppress(RayError):  # Ray itself has died, and its workers with it
        ray.kill(actor)
