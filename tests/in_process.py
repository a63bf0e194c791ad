"""Executors of tests: real workers in the test's own process, without Ray, and one that must not be used.

What Ray adds (processes, nodes, replacement of lost workers) is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from engine.jobs.messages import Failure, Job, Partition, Receipt
from engine.llm.journal.answers import Journal
from engine.spec.pipeline_spec import Resources
from engine.worker.partition_worker import Worker


class InProcess:
    """See engine.running.executor.Executor."""

    def start(self) -> None:
        """There is nothing to start."""

    def stop(self) -> None:
        """There is nothing to stop."""

    def workers_for(self, resources: Resources, **_: object) -> Resources:
        """One worker."""
        return resources.model_copy(update={"num_cpus": resources.num_cpus or 1, "workers": 1})

    def run(self, job: Job, parts: list[Partition], resources: Resources) -> Iterator[Receipt | Failure]:
        """All partitions on one event loop, as in an actor, in a thread: the test may have a loop of its own."""
        results: list[Receipt | Failure] = []
        thread = threading.Thread(target=lambda: results.extend(asyncio.run(_run(job, parts))))
        thread.start()
        thread.join()
        assert len(results) == len(parts), "a worker raised; its traceback is on stderr"
        yield from results


class Unused(InProcess):
    """Fails the test when it is started."""

    def start(self) -> None:
        """Fail."""
        pytest.fail("a cluster was started")


async def _run(job: Job, parts: list[Partition]) -> list[Receipt | Failure]:
    # As data, because that is how jobs and results travel.
    worker = Worker(Job.model_validate_json(job.model_dump_json()))
    try:
        return await asyncio.gather(*(worker.run(part) for part in parts))
    finally:
        for model in worker.models._clients.values():  # an actor's process just ends
            await model.close()
        if isinstance(worker.models._answers, Journal):
            worker.models._answers.close()
