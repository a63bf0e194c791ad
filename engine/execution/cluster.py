"""Starts and stops Ray for a run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext

from engine.errors import EngineError
from engine.execution.capacity import Capacity
from engine.execution.executor import Death, Result, Server, WorkerRequest
from engine.execution.pool import Pool
from engine.execution.ray_environment import Home, check_cluster, loopback_only, silent_ray, temporary_folder
from engine.jobs.messages import Job, Partition
from engine.library_noise import quiet_ray
from engine.llm.types.model_spec import Address
from engine.pipeline.served_models import named_cluster
from engine.serving.launch import Launch
from engine.spec.pipeline_spec import Resources


class Cluster:
    """An executor on Ray: a private local one, or the cluster named by ENGINE_RAY_ADDRESS or RAY_ADDRESS.

    Args:
        registry: the location of the run's registry.
    """

    def __init__(self, registry: str) -> None:
        self._registry = registry
        self._started_here = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._home: Home | None = None
        self._pool: Pool | None = None

    def start(self, *, shared_limits: bool) -> None:
        """Start or attach; raises EngineError with the address if a named cluster does not answer."""
        if self._pool is None:
            self.attach()
            self._pool = Pool(self._registry, _nodes, self._home, shared_limits=shared_limits)

    def attach(self) -> None:
        """Start Ray, or attach to the named cluster, if that has not happened in this process."""
        # Logs of Ray's own processes stay in its session folder; results carry what users must know.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would query the clouds' metadata servers
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        named = named_cluster()
        quiet_ray()
        with nullcontext() if named else loopback_only():
            import ray

        if not ray.is_initialized():
            logging.getLogger("ray").setLevel(logging.ERROR)
            handler = signal.getsignal(signal.SIGTERM)
            try:
                # Ray puts the driver's working folder first on the workers' import path, where a user's `numpy.py` or folder
                # `operators` would shadow the installed one. So it starts in an empty folder.
                self._folder = tempfile.TemporaryDirectory(prefix="engine-ray-", ignore_cleanup_errors=True)
                home = Home(os.getcwd(), tuple(sys.path))
                with chdir(self._folder.name), _quiet_stderr(), silent_ray():
                    self._attach(named) if named else self._start_private(home)
            except EngineError:
                raise
            except Exception as error:  # Ray raises bare ones, too
                what = f"cannot reach the Ray cluster at {named}" if named else "Ray does not start on this machine"
                raise EngineError(f"{what}: {error}") from error
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
        if self._pool is not None:
            self._pool.end()
            self._pool = None
        if self._started_here:
            import ray

            ray.shutdown()
            self._started_here = False
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def place(self, request: WorkerRequest) -> Resources | None:
        """See Executor."""
        return self._running.place(request)

    def open(self, job: Job, request: WorkerRequest, resources: Resources) -> None:
        """See Executor."""
        self._running.open(job, request, resources)

    def room(self, step: str) -> int:
        """See Executor."""
        return self._running.room(step)

    def submit(self, step: str, part: Partition) -> None:
        """See Executor."""
        self._running.submit(step, part)

    def next(self, seconds: float) -> Result | None:
        """See Executor."""
        return self._pool.next(seconds) if self._pool else None

    def halt(self, step: str) -> None:
        """See Executor."""
        self._running.halt(step)

    def close(self, step: str) -> None:
        """See Executor."""
        self._running.close(step)

    def check_room(self, servers: Sequence[Launch], request: WorkerRequest) -> None:
        """See Executor."""
        self._running.check_room(servers, request)

    def start_servers(self, servers: Sequence[Launch], request: WorkerRequest | None) -> list[Server] | None:
        """See Executor."""
        return self._running.start_servers(servers, request)

    @property
    def lacks_room(self) -> bool:
        """See Executor."""
        return self._pool is not None and self._pool.lacks_room

    def deaths(self) -> Sequence[Death]:
        """See Executor."""
        return self._pool.deaths() if self._pool else ()

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """See Executor."""
        if self._pool is not None:
            self._pool.serve(model, addresses)

    @property
    def _running(self) -> Pool:
        assert self._pool is not None
        return self._pool


def _nodes() -> Capacity:
    import ray

    return Capacity.of([node["Resources"] for node in ray.nodes() if node["Alive"]])


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
