"""Runs a step's partitions on Ray Data. The only module that imports ray."""

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

from engine.job import Failure, Job, Partition, Receipt
from engine.problems import EngineError, StepError
from engine.ray_environment import check_cluster, loopback_only, temporary_folder
from engine.spec import Resources

ADDRESS = "ENGINE_RAY_ADDRESS"
NOTHING = Resources(num_cpus=0, num_gpus=0, workers=1)
"""Of a worker that only waits for others."""

LEAST_IN_FLIGHT = 8
"""Partitions that one worker has under way when there are enough, and their rows wait for models."""


class Cluster:
    """Ray for the length of a run: a private local one, or the cluster that ENGINE_RAY_ADDRESS or RAY_ADDRESS names."""

    def __init__(self) -> None:
        self._started_here = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._home: str | None = None

    def start(self) -> None:
        """Start or attach; raises EngineError with the address when a named cluster does not answer."""
        # Logs of Ray's own processes stay in its session folder; what users must know comes back in results.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        named = os.environ.get(ADDRESS) or os.environ.get("RAY_ADDRESS")
        with nullcontext() if named else loopback_only():
            import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        if not ray.is_initialized():
            handler = signal.getsignal(signal.SIGTERM)
            try:
                # Ray puts the driver's working folder first on the workers' import path: a `numpy.py` or a folder
                # `operators` of the user's there would be imported in place of the installed one. This one is empty.
                self._folder = tempfile.TemporaryDirectory(prefix="engine-ray-", ignore_cleanup_errors=True)
                home = os.getcwd()
                with chdir(self._folder.name), _quiet_stderr():
                    self._attach(named) if named else self._start_private(home)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
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
        context.memory_usage_poll_interval_s = None  # it reads all of /proc for every task, in the thread that sends requests

    def _attach(self, address: str) -> None:
        import ray

        check_cluster(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)

    def _start_private(self, home: str) -> None:
        import ray

        self._home = home

        # A head of our own that is gone does not come back: better a run that ends than one that waits a minute.
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
        os.environ.setdefault("RAY_worker_niceness", "0")  # workers send the requests: nothing else here is urgent
        with loopback_only():
            # "local", because a stale cluster file must not be followed: it can hang for minutes.
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _temp_dir=str(temporary_folder() / "ray"),
            )

    def stop(self) -> None:
        """Stop what was started here."""
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
        """The resources of a step's workers, with what YAML leaves open filled in.

        A model in this process gets all CPUs of a node (and a GPU, where there are any); an API needs one worker, whose
        requests overlap; other operators get a worker for each CPU. Several devices share a node.
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
                f"its resources ask for {cpus:g} CPUs and {gpu:g} GPUs a worker, and no node of the cluster has that many "
                f"(the largest has {node_cpus:g} CPUs)"
            )
        workers = resources.workers
        if devices > 1 and (cpus * devices > all_cpus or gpu * devices > sum(node.get("GPU", 0) for node in alive)):
            raise StepError(
                f"{devices} devices of {cpus:g} CPUs and {gpu:g} GPUs are more than the cluster has: see `resources`"
            )
        if workers is None:
            workers = 1 if calls_models or whole else int(max(1, all_cpus // max(cpus, 1)))
        return Resources(num_cpus=cpus, num_gpus=gpu, memory=resources.memory, workers=max(1, min(workers, parts)))

    def run(self, job: Job, parts: list[Partition], resources: Resources) -> Iterator[Receipt | Failure]:
        """Run partitions, giving each result as it arrives, in no particular order."""
        import ray.data
        from ray.exceptions import RayError

        workers = resources.workers or 1
        in_flight = _partitions_in_flight(job, parts, workers)
        service = _service(job) if job.models and (workers > 1 or len(_alive_nodes()) > 1) else None
        descriptors = [{"start": part.start, "stop": part.stop} for part in parts]
        dataset = ray.data.from_items(descriptors, override_num_blocks=len(descriptors)).map_batches(
            _RayWorker,
            fn_constructor_args=(job.model_dump_json(), service, ray.get_runtime_context().get_node_id(), self._home),
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
        finally:
            if service is not None:
                ray.kill(service)


def _alive_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _partitions_in_flight(job: Job, parts: list[Partition], workers: int) -> int:
    """Partitions that one worker has under way.

    Enough rows to fill the busiest model's requests in flight eight times over, so that slow rows, and the writing of
    partitions that are done, do not leave it idle; but no more than its share: the worker that is up first must not take all.
    Without a model one partition is computed while another one is written; more would only fill the memory.
    """
    rows = max((part.stop - part.start for part in parts if part.stop > part.start), default=1)
    busiest = max((model.spec.most_in_flight for model in job.models.values()), default=0)
    wanted = max(LEAST_IN_FLIGHT, -(-8 * busiest // (workers * rows))) if job.models else 2
    return min(wanted, -(-len(parts) // workers))


class _RayWorker:
    """A Ray Data actor around a Worker; `service` is what several workers share, on the driver's node."""

    def __init__(self, job: str, service: Any, driver_node: str, home: str | None) -> None:
        import ray

        if home is not None:
            os.chdir(home)  # operators may read files by relative paths
        from engine.worker import Worker

        # The journal's thread must not wait 5 ms for its turn: requests in flight wait for it.
        sys.setswitchinterval(0.0005)
        far = service is not None and ray.get_runtime_context().get_node_id() != driver_node
        self._worker = Worker(Job.model_validate_json(job), _RayLink(service) if service is not None else None, far=far)

    async def __call__(self, batch: dict[str, Any]) -> Any:
        for start, stop in zip(batch["start"], batch["stop"], strict=True):
            result = await self._worker.run(Partition(start=int(start), stop=int(stop)))
            yield {"failed": [isinstance(result, Failure)], "result": [result.model_dump_json()]}


class _RayService:
    """A Ray actor around a Service."""

    def __init__(self, job: str) -> None:
        from functools import partial

        from engine.llm.sharing import Service
        from engine.models import governor
        from registry import Registry

        told = Job.model_validate_json(job)
        models = {binding.name: partial(governor, binding) for binding in told.models.values()}
        self._service = Service(Registry(told.registry).journal, models)

    async def call(self, method: str, *arguments: Any) -> Any:
        return await getattr(self._service, method)(*arguments)


class _RayLink:
    """See Link."""

    def __init__(self, service: Any) -> None:
        self._service = service

    async def call(self, method: str, *arguments: Any) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return await self._service.call.remote(method, *arguments)
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            raise EngineError("the process that shares limits and journal among the workers is gone; run again") from error


def _service(job: Job) -> Any:
    """A Service on the driver's node, where the journal's file is safe to open."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(_RayService).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
    return actor.remote(job.model_dump_json())


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
