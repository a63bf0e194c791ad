"""One server of a model on this machine: started, watched, restarted when it dies or hangs, and ended with all its
children."""

from __future__ import annotations

import datetime as dt
import os
import re
import shlex
import socket
import threading
import time

from engine.errors import EngineError
from engine.llm.types.model_spec import Address
from engine.llm.weights import LocalWeights, local_weights, materialise
from engine.serving.adapters import PERMISSION, Adapters
from engine.serving.command_line import Command, Listen, command_line
from engine.serving.guarded_process import GuardedProcess, last_lines
from engine.serving.health import free_port, is_free, is_ready, known_as, url_of
from engine.serving.launch import Launch, Served, Status
from registry.storage.objects import ObjectStore

MOST_DEATHS = 5
"""A server that dies this often in a row, each time within _LIVED_SECONDS after it was ready, is not started again."""

_LIVED_SECONDS = 120.0
_LOOK_SECONDS = 0.2
_HEALTH_SECONDS = 10.0
"""How often a ready server is checked, in seconds; more often if it may not be silent for long."""
_MOST_PORTS = 3
_PORT_TAKEN = re.compile(r"address already in use|address in use|errno 98|EADDRINUSE", re.IGNORECASE)
_NOT_INHERITED = re.compile(rf"RAY_|PYTHONPATH$|PYTHONHOME$|PYTHONSTARTUP$|{PERMISSION}$|VLLM_LORA_RESOLVER_")
"""Variables that a server does not inherit: they would affect its Python environment, or open it to others."""


class Replica:
    """Runs a server until `stop`, in a thread of its own.

    Args:
        launch: the server to run.
        host: the address to listen at.
        store: the store of the registry, which may have the weights.
    """

    def __init__(self, launch: Launch, host: str, store: ObjectStore) -> None:
        self._launch = launch
        self._models = launch.models
        self._host = host
        self._store = store
        self._adapters = Adapters(store)
        self._status = Status()
        self._stopping = threading.Event()
        self._listen: Listen | None = None
        self._names: tuple[str, ...] = ()
        self._process: GuardedProcess | None = None
        self._thread = threading.Thread(target=self._run, name=launch.title, daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """The server's current state."""
        return self._status

    def change(self, models: tuple[Served, ...]) -> None:
        """Serve these adapters from now on; only for a server with room for adapters. `status` says when it has them."""
        self._models = models

    def stop(self) -> None:
        """End the server; returns when none of its processes is left."""
        self._stopping.set()
        if (process := self._process) is not None:
            process.stop()  # here, because the thread may be waiting for a server that does not answer
        self._thread.join()

    def _run(self) -> None:
        try:
            self._keep_up()
        except EngineError as error:
            self._set(state="failed", address=None, why=str(error))
        except Exception as error:  # nobody would see an exception that is raised in a thread
            self._set(state="failed", address=None, why=f"{type(error).__name__}: {error}")

    def _keep_up(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            process = self._start()
            if process is None:
                return
            try:
                # It is ready when it has, or has refused, each of its adapters.
                while not self._takes_in() and not process.ended:
                    self._stopping.wait(_LOOK_SECONDS)
                if not process.ended:
                    self._set(state="ready", address=self._address(), seconds=time.monotonic() - began)
                ended, seconds = self._watch(process)
                if not ended:
                    return
                # Nothing is sent to it while it is being ended.
                why = f"{ended}; its log ends with:\n{last_lines(self._launch.log)}"
                self._set(state="starting", address=None, deaths=self._status.deaths + 1, why=why)
            finally:
                process.stop()
            deaths = 1 if seconds > _LIVED_SECONDS else deaths + 1
            if deaths >= MOST_DEATHS:
                raise EngineError(f"it died {deaths} times, each time soon after it was ready: {why}")

    def _takes_in(self) -> bool:
        """Load the adapters that a server with room for adapters lacks; False if the requests have to be repeated."""
        if self._launch.room is None or self._stopping.is_set():
            return True
        assert self._listen is not None
        known = self._adapters.loaded, self._adapters.refused
        is_done = self._adapters.load(self._models, self._listen, self._launch.serve.hang_timeout)
        if known != (self._adapters.loaded, self._adapters.refused):
            self._set(loaded=self._adapters.loaded, refused=self._adapters.refused)
        return is_done

    def _address(self) -> Address:
        listen, launch = self._listen, self._launch
        assert listen is not None
        # Adapters have the names that the engine gave them.
        return Address(url_of(listen), launch.models[0].name if launch.room else known_as(listen, self._names))

    def _watch(self, process: GuardedProcess) -> tuple[str, float]:
        """Wait until a ready server ends or hangs; returns what happened, in words, and for how many seconds it was ready.

        The words are empty after `stop`.
        """
        serve, listen = self._launch.serve, self._listen
        assert listen is not None
        ready = well = asked = time.monotonic()
        every = min(_HEALTH_SECONDS, serve.hang_timeout / 4)
        while not (ended := process.ended) and not self._stopping.wait(_LOOK_SECONDS):
            self._takes_in()
            now = time.monotonic()
            if now - asked < every:
                continue
            # This can take a while: a server that handles one request at a time answers this one in its turn.
            trouble = is_ready(listen, serve.health_path, max(0.1, well + serve.hang_timeout - now))
            asked = time.monotonic()
            if not trouble:
                well = time.monotonic()
            elif process.ended or self._stopping.is_set():
                continue
            elif (silent := time.monotonic() - well) >= serve.hang_timeout:
                return (
                    f"it hung: for {silent:.0f} s, GET {serve.health_path} was not answered with 200 ({trouble})",
                    well - ready,
                )
        return ended, time.monotonic() - ready

    def _start(self) -> GuardedProcess | None:
        """The server's process, once it is ready; None after `stop`. Raises EngineError."""
        serve = self._launch.serve
        for attempt in range(1, _MOST_PORTS + 1):
            listen = Listen(self._host, self._free_port())
            command = self._command(listen)
            self._log(command)
            process = self._process = GuardedProcess(command.words, self._environment(), self._launch.log)
            try:
                ready = self._wait_until_ready(process, listen)
                if ready:
                    self._listen, self._names = listen, command.names
                    return process
            except BaseException:
                process.stop()
                raise
            process.stop()
            if self._stopping.is_set():
                return None
            lines = last_lines(self._launch.log)
            taken = serve.port is None and _PORT_TAKEN.search(lines)
            if not taken or attempt == _MOST_PORTS:
                raise EngineError(f"it did not start: {process.ended}. Its log ({self._launch.log}) ends with:\n{lines}")
        raise AssertionError

    def _command(self, listen: Listen) -> Command:
        first, *others = self._models
        serve, room = self._launch.serve, self._launch.room
        if room is None:
            weights = local_weights(first.weights, self._store) if first.weights else None
            beside = [(each.name, local_weights(each.weights, self._store)) for each in others if each.weights]
            return command_line(serve, first.name, weights, listen, beside)
        assert first.weights is not None
        assert first.weights.base is not None
        base = first.weights.base
        room = self._adapters.room_for(self._models, room)
        self._set(loaded=(), refused=self._adapters.refused)
        return command_line(serve, base.name, LocalWeights(materialise(base, self._store), None, base.name), listen, room=room)

    def _wait_until_ready(self, process: GuardedProcess, listen: Listen) -> bool:
        """False if it ended instead, or after `stop`. Raises EngineError."""
        serve = self._launch.serve
        until = time.monotonic() + serve.start_timeout
        while not process.ended and not self._stopping.is_set():
            trouble = is_ready(listen, serve.health_path)
            if not trouble:
                # If its port was taken by another server meanwhile, that one has answered, and ours ends.
                return not self._stopping.wait(_LOOK_SECONDS) and not process.ended
            if time.monotonic() > until:
                raise EngineError(
                    f"it was not ready within {serve.start_timeout:g} s (serve.start_timeout): GET {serve.health_path} "
                    f"(serve.health): {trouble}. Its log ({self._launch.log}) ends with:\n{last_lines(self._launch.log)}"
                )
            self._stopping.wait(_LOOK_SECONDS)
        return False

    def _free_port(self) -> int:
        """The port that the pipeline names, or the last one, if it is free; else a new one."""
        named = self._launch.serve.port
        if named is not None:
            if not is_free(Listen(self._host, named)):
                raise EngineError(
                    f"serve.port: another process listens on port {named} of {self._host} on {socket.gethostname()}; end it, "
                    "or leave serve.port out, and a free port is taken"
                )
            return named
        if self._listen is not None and is_free(self._listen):
            return self._listen.port
        return free_port(self._host)

    def _environment(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not _NOT_INHERITED.match(name)}
        if self._launch.gpus == 0:  # Ray hides no GPU from a process that has reserved none
            env["CUDA_VISIBLE_DEVICES"] = ""
        env |= {"PYTHONUNBUFFERED": "1", **self._launch.serve.env}
        return self._adapters.environment(env) if self._launch.room else env

    def _log(self, command: Command) -> None:
        self._launch.log.parent.mkdir(parents=True, exist_ok=True)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        with self._launch.log.open("a") as log:
            log.write(f"--- {now} {socket.gethostname()}: {shlex.join(command.words)}\n")

    def _set(self, **changes: object) -> None:
        self._status = self._status.model_copy(update=changes)
