"""Starts and stops Ray for a run. Only this module, `engine.running.pool` and the training operators import ray."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from typing import Any

from engine.errors import EngineError, StepError
from engine.jobs.messages import Failure, Job, Partition, Receipt
from engine.running.ray_environment import Home, check_cluster, loopback_only, temporary_folder
from engine.spec.pipeline_spec import Resources

ADDRESS = "ENGINE_RAY_ADDRESS"
NOTHING = Resources(num_cpus=0, num_gpus=0, workers=1)
"""The resources of a worker that only waits for others."""

LEAST_IN_FLIGHT = 8
"""Partitions in progress per worker, if there are enough and their rows wait for models."""


class Cluster:
    """An executor on Ray: a private local one, or the cluster named by ENGINE_RAY_ADDRESS or RAY_ADDRESS."""

    def __init__(self) -> None:
        self._started_here = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._home: Home | None = None

    def start(self) -> None:
        """Start or attach; raises EngineError with the address if a named cluster does not answer."""
        # Logs of Ray's own processes stay in its session folder; results carry what users must know.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would query the clouds' metadata servers
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        named = os.environ.get(ADDRESS) or os.environ.get("RAY_ADDRESS")
        with nullcontext() if named else loopback_only():
            import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        if not ray.is_initialized():
            handler = signal.getsignal(signal.SIGTERM)
            try:
                # Ray puts the driver's working folder first on the workers' import path, where a user's `numpy.py` or folder
                # `operators` would shadow the installed one. So it starts in an empty folder.
                self._folder = tempfile.TemporaryDirectory(prefix="engine-ray-", ignore_cleanup_errors=True)
                home = Home(os.getcwd(), tuple(sys.path))
                with chdir(self._folder.name), _quiet_stderr():
                    self._attach(named) if named else self._start_private(home)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
                where = f"the Ray cluster at {named}" if named else "Ray on this machine"
                raise EngineError(f"cannot reach {where}: {error}") from error
            self._started_here = True
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray replaces it

    def _attach(self, address: str) -> None:
        import ray

        check_cluster(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)

    def _start_private(self, home: Home) -> None:
        import ray

        self._home = home

        # If our own head dies it does not come back, so fail soon instead of waiting a minute.
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
        os.environ.setdefault("RAY_worker_niceness", "0")  # workers send the requests, so nothing here is more urgent
        with loopback_only():
            # "local", because following a stale cluster file can hang for minutes.
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _temp_dir=str(temporary_folder() / "ray"),
            )

    def stop(self) -> None:
        """Stop what `start` started."""
        if self._started_here:
            import ray

            ray.shutdown()
            self._started_here = False
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

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
        """The resources of a step's workers, with defaults for what the pipeline leaves open.

        A model in this process gets all CPUs of a node (and a GPU, if there are any). A model behind an API needs one worker,
        whose requests overlap. Other operators get one worker per CPU. Several devices share a node.
        """
        alive = [node["Resources"] for node in _alive_nodes()]
        node_cpus = max((node.get("CPU", 0) for node in alive), default=1)
        all_cpus = sum(node.get("CPU", 0) for node in alive)
        gpus = any(node.get("GPU", 0) >= 1 for node in alive)
        cpus, gpu = resources.num_cpus, resources.num_gpus
        if gpu is None:
            gpu = 1.0 if local_model and gpus else 0.0
        if cpus is None:
            cpus = max(1.0, node_cpus // devices) if local_model and not gpu else 1.0
        if cpus > node_cpus or gpu > max((node.get("GPU", 0) for node in alive), default=0):
            raise StepError(
                f"its `resources` ask for {cpus:g} CPUs and {gpu:g} GPUs per worker, but no node of the cluster has that many "
                f"(the largest has {node_cpus:g} CPUs)"
            )
        workers = resources.workers
        if devices > 1 and (cpus * devices > all_cpus or gpu * devices > sum(node.get("GPU", 0) for node in alive)):
            raise StepError(
                f"{devices} devices with {cpus:g} CPUs and {gpu:g} GPUs each are more than the cluster has; reduce `resources`"
            )
        if workers is None:
            workers = 1 if calls_models or whole else int(max(1, all_cpus // max(cpus, 1)))
        return Resources(num_cpus=cpus, num_gpus=gpu, memory=resources.memory, workers=max(1, min(workers, parts)))

    def run(self, job: Job, parts: list[Partition], resources: Resources) -> Iterator[Receipt | Failure]:
        """Run partitions and yield each result as it arrives, in any order."""
        from engine.running.pool import Pool

        workers = resources.workers or 1
        # Also for one worker if there is a cap: the account must survive the worker.
        several = workers > 1 or len(_alive_nodes()) > 1 or any(model.spec.capped for model in job.models.values())
        pool = Pool(job, resources, _partitions_in_flight(job, parts, workers), self._home, shared=bool(job.models) and several)
        try:
            yield from pool.results(parts)
        finally:
            pool.close()


def _alive_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _partitions_in_flight(job: Job, parts: list[Partition], workers: int) -> int:
    """The number of partitions in progress per worker.

    Enough rows to fill the busiest model's requests in flight eight times over, so that slow rows and the writing of finished
    partitions do not leave it idle; but no more than its share, so that the first worker to start does not take them all.
    Without a model, one partition is computed while another is written; more would only fill the memory.
    """
    rows = max((part.stop - part.start for part in parts if part.stop > part.start), default=1)
    busiest = max((model.spec.most_in_flight for model in job.models.values()), default=0)
    wanted = max(LEAST_IN_FLIGHT, -(-8 * busiest // (workers * rows))) if job.models else 2
    return min(wanted, -(-len(parts) // workers))


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hide what Ray's C++ core prints directly to stderr while it starts; errors arrive as exceptions."""
    sys.stderr.flush()
    kept, hidden = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(hidden, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(hidden)
