"""The servers of models on Ray: an actor for each, which reserves its resources and runs it on the actor's node."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Any

from engine.execution.capacity import Amount
from engine.execution.ray_actors import actor_class, death_errors, kill
from engine.execution.ray_environment import Home
from engine.serving.launch import Launch, Served, Status
from engine.spec.pipeline_spec import Resources

_LOOK_SECONDS = 0.25
_CALLS_AT_ONCE = 4


class RayReplica:
    """A Ray actor around a Replica. Its server ends with it, because a guard watches it.

    Args:
        launch: a Launch as JSON.
        registry: the location of the run's registry.
        home: see Pool.
        driver: the id of the driver's process, if that is on this machine.
    """

    def __init__(self, launch: str, registry: str, home: Home | None, driver: int | None) -> None:
        import ray

        if home is not None:
            home.enter()

        from engine.serving.replica import Replica
        from registry import Registry

        # A private Ray is on this machine only. Workers on other nodes need an address that they can reach.
        host = "127.0.0.1" if home is not None else ray.util.get_node_ip_address()
        if driver is not None:
            threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
        self._replica = Replica(Launch.model_validate_json(launch), host, Registry(registry).store)

    def look(self) -> str:
        """Its Status as JSON."""
        return self._replica.status.model_dump_json()

    def change(self, models: list[str]) -> None:
        """See Replica.change; each of them is a Served as JSON."""
        self._replica.change(tuple(map(Served.model_validate_json, models)))

    def stop(self) -> None:
        """See Replica.stop."""
        self._replica.stop()


def _end_with(driver: int) -> None:
    """End this process when the driver has ended: without its driver, Ray takes up to a minute to end its processes."""
    try:
        watched = os.pidfd_open(driver)
    except ProcessLookupError:
        os._exit(1)
    select.select([watched], [], [])
    os._exit(1)


class RayServer:
    """See Server.

    Args:
        actor: a RayReplica.
        amount: the resources that it holds.
        held: the amounts of all servers; its own is added and removed.
    """

    def __init__(self, actor: Any, amount: Amount, held: list[Amount]) -> None:
        self.gpus = amount.gpus
        self._actor = actor
        self._amount = amount
        self._held = held
        self._asked = actor.look.remote()
        self._asked_at = time.monotonic()
        self._status = Status()
        self._stopping: Any = None
        self._is_gone = False

    def look(self) -> Status:
        """See Server."""
        import ray

        now = time.monotonic()
        if self._status.state == "lost" or self._is_gone or now - self._asked_at < _LOOK_SECONDS:
            return self._status
        if ray.wait([self._asked], timeout=0)[0]:
            try:
                self._status = Status.model_validate_json(ray.get(self._asked))
                self._asked, self._asked_at = self._actor.look.remote(), now
            except death_errors() as error:
                lines = str(error).strip().splitlines()
                self._status = Status(state="lost", why=lines[-1] if lines else type(error).__name__)
        return self._status

    def change(self, models: tuple[Served, ...]) -> None:
        """See Server. One that is lost is started again with them."""
        if self._stopping is None and not self._is_gone:
            self._actor.change.remote([each.model_dump_json() for each in models])

    def stop(self) -> None:
        """See Server."""
        if self._stopping is None and not self._is_gone:
            self._stopping = self._actor.stop.remote()

    def has_stopped(self) -> bool:
        """See Server."""
        import ray

        if not self._is_gone and self._stopping is not None and ray.wait([self._stopping], timeout=0)[0]:
            self.kill()
        return self._is_gone

    def kill(self) -> None:
        """See Server."""
        if not self._is_gone:
            self._is_gone = True
            self._held.remove(self._amount)
            kill(self._actor)


def start_server(launch: Launch, resources: Resources, registry: str, home: Home | None, held: list[Amount]) -> RayServer:
    """Start a server, as soon as Ray has the resources for it. Its amount is in `held` until it has stopped."""
    placed = launch.model_copy(update={"gpus": resources.num_gpus or 0.0})
    driver = os.getpid() if home is not None else None  # a private Ray is on the driver's machine
    replica = actor_class(RayReplica, resources, _CALLS_AT_ONCE)
    actor = replica.remote(placed.model_dump_json(), registry, home, driver)
    amount = Amount.of(resources)
    held.append(amount)
    return RayServer(actor, amount, held)
