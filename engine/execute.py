"""Runs a step's partitions on Ray Data. The only module that imports ray."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.job import Failure, Job, Partition, Receipt
from engine.problems import EngineError, StepError
from engine.spec import Resources

ADDRESS = "ENGINE_RAY_ADDRESS"
LEAST_IN_FLIGHT = 8
"""Partitions that one worker has under way when there are enough."""


class Cluster:
    """Ray for the length of a run: a private local one, or the cluster that ENGINE_RAY_ADDRESS or RAY_ADDRESS names."""

    def __init__(self) -> None:
        self._started_here = False

    def start(self) -> None:
        """Start or attach; raises EngineError with the address when a named cluster does not answer."""
        # Logs of Ray's own processes stay in its session folder; what users must know comes back in results.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        if not ray.is_initialized():
            # Without a named address a stale cluster file must not be followed: it can hang for minutes.
            named = os.environ.get(ADDRESS) or os.environ.get("RAY_ADDRESS")
            handler = signal.getsignal(signal.SIGTERM)
            try:
                with _quiet_stderr():
                    ray.init(
                        address=named or "local",
                        include_dashboard=False if not named else None,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        configure_logging=False,
                    )
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                where = f"the Ray cluster at {named}" if named else "Ray on this machine"
                raise EngineError(f"cannot reach {where}: {error}") from error
            self._started_here = True
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place
        import ray.data

        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False

    def stop(self) -> None:
        """Stop what was started here."""
        if self._started_here:
            import ray

            ray.shutdown()
            self._started_here = False

    def workers_for(self, resources: Resources, *, local_model: bool, calls_models: bool, whole: bool, parts: int) -> Resources:
        """The resources of a step's workers, with what YAML leaves open filled in.

        A model in this process gets all CPUs of a node (and a GPU, where there are any); an API needs one worker, whose
        requests overlap; other operators get a worker for each CPU.
        """
        import ray

        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        node_cpus = max((node.get("CPU", 0) for node in alive), default=1)
        all_cpus = sum(node.get("CPU", 0) for node in alive)
        gpus = any(node.get("GPU", 0) >= 1 for node in alive)
        cpus, gpu = resources.num_cpus, resources.num_gpus
        if gpu is None:
            gpu = 1.0 if local_model and gpus else 0.0
        if cpus is None:
            cpus = max(1.0, node_cpus) if local_model and not gpu else 1.0
        if cpus > node_cpus or gpu > max((node.get("GPU", 0) for node in alive), default=0):
            raise StepError(
                f"its resources ask for {cpus:g} CPUs and {gpu:g} GPUs a worker, and no node of the cluster has that many "
                f"(the largest has {node_cpus:g} CPUs)"
            )
        workers = resources.workers
        if workers is None:
            workers = 1 if calls_models or whole else int(max(1, all_cpus // max(cpus, 1)))
        return Resources(num_cpus=cpus, num_gpus=gpu, memory=resources.memory, workers=max(1, min(workers, parts)))

    def run(self, job: Job, parts: list[Partition], resources: Resources) -> Iterator[Receipt | Failure]:
        """Run partitions, giving each result as it arrives, in no particular order."""
        import ray.data
        from ray.exceptions import RayError

        in_flight = _partitions_in_flight(job, parts, resources.workers or 1)
        descriptors = [{"start": part.start, "stop": part.stop} for part in parts]
        dataset = ray.data.from_items(descriptors, override_num_blocks=len(descriptors)).map_batches(
            _RayWorker,
            fn_constructor_args=(job.model_dump_json(),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=resources.workers,
                max_tasks_in_flight_per_actor=in_flight,
                max_concurrent_calls_per_actor=in_flight,
            ),
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus or None,
            memory=resources.memory,
        )
        try:
            for row in dataset.iter_rows():
                kind = Failure if row["failed"] else Receipt
                yield kind.model_validate_json(row["result"])
        except RayError as error:
            raise StepError(f"a worker was lost and could not be replaced: {_last_line(error)}") from error


def _partitions_in_flight(job: Job, parts: list[Partition], workers: int) -> int:
    """Partitions that one worker has under way.

    Enough rows to fill the busiest model's requests in flight twice over, so that the slow rows of some partitions do not
    leave it idle; but no more than its share: the worker that is up first must not take all.
    """
    rows = max((part.stop - part.start for part in parts if part.stop > part.start), default=1)
    busiest = max((model.spec.limits.concurrency for model in job.models.values()), default=0)
    wanted = max(LEAST_IN_FLIGHT, -(-2 * busiest // (workers * rows)))
    return min(wanted, -(-len(parts) // workers))


class _RayWorker:
    """A Ray Data actor around a Worker."""

    def __init__(self, job: str) -> None:
        from engine.worker import Worker

        self._worker = Worker(Job.model_validate_json(job))

    async def __call__(self, batch: dict[str, Any]) -> Any:
        for start, stop in zip(batch["start"], batch["stop"], strict=True):
            result = await self._worker.run(Partition(start=int(start), stop=int(stop)))
            yield {"failed": [isinstance(result, Failure)], "result": [result.model_dump_json()]}


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hide what Ray's C++ core prints past Python while it starts; errors come as exceptions."""
    sys.stderr.flush()
    kept, hidden = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(hidden, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(hidden)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
