"""The interface to whatever executes a run's partitions: a Ray cluster, or in tests the same process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from engine.jobs.messages import Failure, Job, Partition, Receipt
from engine.spec.pipeline_spec import Resources


class Executor(Protocol):
    """Started when the first step has something to run, stopped when the run ends."""

    def start(self) -> None:
        """Get ready. It is called before each step, and does nothing the second time.

        Raises:
            EngineError: nothing can be executed; the text says why.
        """

    def stop(self) -> None:
        """Release what `start` took."""

    def workers_for(
        self,
        resources: Resources,
        *,
        local_model: bool,
        calls_models: bool,
        whole: bool,
        parts: int,
        devices: int = 1,
    ) -> Resources:
        """The resources of a step's workers and their number, with defaults for what the pipeline leaves open."""
        ...

    def run(self, job: Job, parts: list[Partition], resources: Resources) -> Iterator[Receipt | Failure]:
        """Run partitions and yield each result as it arrives, in any order."""
        ...
