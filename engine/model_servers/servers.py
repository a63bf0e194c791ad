"""The servers that a run starts for its models: which steps need them, when they start, and when they stop.

Adapters on the same base model with the same settings share their servers, where the engine is vLLM; so do models with the same
full weights. Those whose weights are known when the servers start are served from then on.

Servers start when the first step that needs them has work, all servers of a step's models together. They stop when no later
step needs them, when others need their room while none of their own steps has work, and when the run ends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import StepError
from engine.execution.executor import Executor, Server, WorkerRequest
from engine.execution.jobs import request_of
from engine.llm.types.model_spec import Address
from engine.pipeline.graph import BoundModel, Step
from engine.pipeline.served_models import Served, served_models, served_together
from engine.serving.guarded_process import STOP_SECONDS
from engine.serving.launch import Beside, Launch, Status

_ASKED_SECONDS = 5.0
"""A step that has asked for its servers within this time has work for them, even if nothing of it is running yet."""

_MOST_LOST = 3
_WAIT_SECONDS = 0.05


@dataclass(eq=False)
class _Group:
    """Models that are served together: their servers by number, and what was last heard of them.

    Attributes:
        lead: the first of the models, by its name in the pipeline.
        beside: what requests call each of the others, by its name in the pipeline.
    """

    lead: str
    beside: dict[str, str]
    launches: dict[int, Launch]
    servers: dict[int, Server]
    heard: dict[int, Status] = field(default_factory=dict)
    lost: Counter[int] = field(default_factory=Counter)

    @property
    def models(self) -> tuple[str, ...]:
        """The pipeline's names of its models."""
        return (self.lead, *self.beside)

    def addresses(self, model: str) -> tuple[Address, ...]:
        """Where the servers answer for one of its models now."""
        found = [status.address for _, status in sorted(self.heard.items()) if status.address is not None]
        return tuple(each._replace(model=self.beside.get(model, each.model)) for each in found)


class Servers:
    """The servers of a run. Use from one thread.

    Args:
        executor: starts them, and tells the workers where they are.
        start_executor: gets it ready; see Executor.start.
        folder: for their logs.
        run_id: begins the names of the logs.
        say: tells the user.
    """

    def __init__(
        self, executor: Executor, start_executor: Callable[[], None], folder: Path, run_id: str, say: Callable[[str], None]
    ) -> None:
        self._executor = executor
        self._start_executor = start_executor
        self._folder = folder
        self._run_id = run_id
        self._say = say
        self._left: dict[str, Step] = {}
        self._models: dict[str, _Group] = {}
        self._ending: list[Server] = []
        self._failed: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        self._running: set[str] = set()
        self._training: set[str] = set()
        self._checked = False

    def expect(self, steps: Sequence[Step]) -> None:
        """These steps are to run, as far as they do not hit."""
        self._left = {step.name: step for step in steps}

    def check(self, step: Step) -> None:
        """Raises StepError if a step needs a server that cannot be started, or died too often; the text has its last words."""
        for name in served_models(step):
            if name in self._failed:
                raise StepError(self._failed[name])

    def are_ready(self, step: Step, request: WorkerRequest) -> bool:
        """Whether each of a step's served models has a server that answers, and a training has the GPUs for itself.

        What is missing is started, or stopped.

        Raises:
            StepError: see `check`; or the cluster is too small for the servers of a step of this run.
        """
        if not self._checked and any(map(served_models, self._left.values())):
            self._start_executor()
            self._check_room()
        if not self._concern(step):
            return True
        self._start_executor()
        self._asked[step.name] = time.monotonic()
        self.check(step)
        served = served_models(step)
        if not served:
            return self._clear_gpus(step)
        self._left[step.name] = step  # by now it has the weights of models that steps have trained
        missing = {name: model for name, model in served.items() if name not in self._models}
        if missing and (self._training or not self._start(missing, step, request)):
            return False
        return all(self._models[name].addresses(name) for name in served)

    def watch(self, running: set[str]) -> None:
        """Take note of what has happened to the servers.

        Args:
            running: the steps some of whose partitions are running.
        """
        self._running = running
        self._ending = [server for server in self._ending if not server.has_stopped()]
        for group in self._groups:
            before = group.addresses(group.lead)
            for number, server in list(group.servers.items()):
                self._hear(group, number, server.look())
            if group.addresses(group.lead) != before:
                for model in group.models:
                    self._executor.serve(model, group.addresses(model))
        if self._models and self._executor.lacks_room:
            self.make_room("")

    @property
    def addresses(self) -> Mapping[str, Address]:
        """One server of each model that has one."""
        found = {name: group.addresses(name) for name, group in self._models.items()}
        return {name: addresses[0] for name, addresses in found.items() if addresses}

    def make_room(self, step: str) -> None:
        """A step needs room: stop the servers for which no other step has work."""
        for group in self._groups:
            if not any(self._is_busy(model, step) for model in group.models):
                self._stop(group)

    def done(self, step: str) -> None:
        """A step has ended: stop the servers that no later step needs."""
        self._left.pop(step, None)
        self._asked.pop(step, None)
        self._training.discard(step)
        needed = {name for each in self._left.values() for name in served_models(each)}
        for group in self._groups:
            if needed.isdisjoint(group.models):
                self._stop(group)

    def close(self) -> None:
        """Stop all servers, and wait until none of their processes is left."""
        for group in self._groups:
            self._stop(group)
        until = time.monotonic() + STOP_SECONDS
        while self._ending and time.monotonic() < until:
            self._ending = [server for server in self._ending if not server.has_stopped()]
            if self._ending:
                time.sleep(_WAIT_SECONDS)
        for server in self._ending:
            server.kill()
        self._ending.clear()

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _concern(self, step: Step) -> bool:
        """Whether a step has to wait for servers to start, or to stop."""
        return bool(served_models(step)) or (
            _takes_gpus(step) and bool(self._ending or any(map(served_models, self._left.values())))
        )

    @property
    def _groups(self) -> list[_Group]:
        return list(dict.fromkeys(self._models.values()))

    @property
    def _all(self) -> list[Server]:
        return [*(server for group in self._groups for server in group.servers.values()), *self._ending]

    def _is_busy(self, model: str, beside: str) -> bool:
        """Whether a step has work for a model's servers; the step `beside` counts if it uses the model."""
        recently = time.monotonic() - _ASKED_SECONDS
        users = [step.name for step in self._left.values() if model in served_models(step)]
        return any(name == beside or name in self._running or self._asked.get(name, 0.0) > recently for name in users)

    def _clear_gpus(self, step: Step) -> bool:
        """Whether no server has a GPU. A training that reserves none uses what it finds, so it waits until all are free."""
        self.make_room(step.name)
        if any(server.gpus for server in self._all):
            return False
        self._training.add(step.name)
        return True

    def _check_room(self) -> None:
        """Check, before any step begins, that each step of the run and its servers can run on the cluster."""
        for step in self._left.values():
            if served := served_models(step):
                launches = [each for group in self._grouped(served) for each in self._launches(group).values()]
                try:
                    self._executor.check_room(launches, request_of(step))
                except StepError as error:
                    raise StepError(f"step {step.name!r} cannot run here: {error}") from error
        self._checked = True

    def _start(self, models: Mapping[str, BoundModel], step: Step, request: WorkerRequest) -> bool:
        """Start the servers of some models, all or none; False while others use what they need."""
        grouped = self._grouped(models)
        launches = [self._launches(group) for group in grouped]
        started = self._executor.start_servers([each for all_of in launches for each in all_of.values()], request)
        if started is None:
            self.make_room(step.name)
            return False
        servers = iter(started)
        for together, all_of in zip(grouped, launches, strict=True):
            lead, *others = together
            beside = {name: together[name].spec.model for name in others}
            group = _Group(lead, beside, all_of, {number: next(servers) for number in all_of})
            self._models |= dict.fromkeys(group.models, group)
            for each in all_of.values():
                self._say(f"{step.name}: starting {each.title} ({each.serve.what}); its log is {each.log}")
        return True

    def _grouped(self, models: Mapping[str, BoundModel]) -> list[Served]:
        """Some models, each with all others of the run that its servers can serve as well."""
        others = {name: model for step in self._left.values() for name, model in served_models(step).items()}
        return served_together(models, {name: model for name, model in others.items() if name not in self._models})

    def _launches(self, models: Mapping[str, BoundModel]) -> dict[int, Launch]:
        (name, model), *others = models.items()
        serve = model.spec.serve
        assert serve is not None
        beside = [Beside(model=other, name=each.spec.model, weights=each.weights) for other, each in others if each.weights]
        return {
            number: Launch(
                model=name,
                name=model.spec.model,
                serve=serve,
                weights=model.weights,
                number=number,
                log=self._folder.absolute() / f"{self._run_id}.{name}-{number}.log",
                beside=tuple(beside),
            )
            for number in range(1, serve.replicas + 1)
        }

    def _hear(self, group: _Group, number: int, status: Status) -> None:
        before, group.heard[number] = group.heard.get(number, Status()), status
        title = group.launches[number].title
        if status.deaths > before.deaths:
            why = status.why.partition("\n")[0].partition(";")[0]
            self._say(f"{title} died ({why}) and is started again; its calls in flight are asked again")
        if status.state == "ready" and before.state != "ready":
            assert status.address is not None
            self._say(f"{title} is ready after {status.seconds:.1f} s: {status.address.url}")
        if status.state == "lost":
            self._replace(group, number, status)
        if status.state == "failed":
            self._drop(group, number, status.why)

    def _replace(self, group: _Group, number: int, status: Status) -> None:
        """Start a server again whose process on the node, or whose node, has died."""
        if group.lost[number] >= _MOST_LOST:
            self._drop(group, number, f"its worker process died {group.lost[number] + 1} times: {status.why}")
            return
        group.servers[number].kill()
        try:
            started = self._executor.start_servers([group.launches[number]], None)  # its steps have workers
        except StepError as error:  # the node that is gone was the only one with room
            self._drop(group, number, str(error))
            return
        if started is not None:  # otherwise again in the next turn
            [group.servers[number]] = started
            group.lost[number] += 1
            group.heard[number] = Status(deaths=status.deaths)
            self._say(f"{group.launches[number].title} was lost with its worker process or node, and is started again")

    def _drop(self, group: _Group, number: int, why: str) -> None:
        """Go on without a server, or fail the steps that need it if it was the last."""
        failure = f"{group.launches[number].title} cannot be used: {why}"
        self._ending.append(server := group.servers.pop(number))
        server.stop()
        del group.heard[number]
        if group.servers:
            self._say(failure)
        else:
            for model in group.models:
                self._failed[model] = failure
                del self._models[model]

    def _stop(self, group: _Group) -> None:
        is_known = bool(group.addresses(group.lead))
        for server in group.servers.values():
            server.stop()
            self._ending.append(server)
        for model in group.models:
            del self._models[model]
            if is_known:
                self._executor.serve(model, ())


def _takes_gpus(step: Step) -> bool:
    """Whether a step trains a model, or does other work with it, on GPUs that it has not reserved."""
    local = any(model.spec.provider == "transformers" for model in step.models.values())
    return step.operator.shape == "whole" and local and step.spec.resources.num_gpus is None
