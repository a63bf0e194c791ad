"""The servers that a run starts for its models: which steps need them, when they start, and when they stop.

Adapters on the same base model with the same settings share their servers, where the engine is vLLM; so do models with the same
full weights. Running servers load an adapter that a step trains later. If they refuse it, it gets its own.

Servers start when the first step that needs them has work, all servers of a step's models together. They stop when no later
step needs them, when others need what they hold while none of their own steps has work, and when the run ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.errors import StepError
from engine.execution.executor import Executor, Server, WorkerRequest
from engine.execution.jobs import request_of
from engine.llm.types.model_spec import Address
from engine.model_servers.groups import Group, expected_rank, loads_adapters, will_share
from engine.pipeline.graph import BoundModel, Step
from engine.pipeline.served_models import served_models, served_together
from engine.pipeline.untrained_models import expected_models
from engine.serving.guarded_process import STOP_SECONDS
from engine.serving.launch import AdapterRoom, Status
from registry import Model

_ASKED_SECONDS = 5.0
"""A step that has asked for its servers within this time has work for them, even if nothing of it is running yet."""

_MOST_LOST = 3
_WAIT_SECONDS = 0.05


class Servers:
    """The servers of a run. Use from one thread.

    Args:
        executor: starts them, and tells the workers where they are.
        start_executor: gets it ready; see Executor.start.
        folder: the folder for their logs.
        run_id: begins the names of the logs.
        say: prints a message to the user.
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
        self._steps: tuple[Step, ...] = ()
        self._expected: dict[str, Model] | None = None
        self._models: dict[str, Group] = {}
        self._alone: set[str] = set()
        self._ending: list[Server] = []
        self._failed: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        self._running: set[str] = set()
        self._training: set[str] = set()
        self._checked = False

    def expect(self, steps: Sequence[Step]) -> None:
        """Announce the steps that will run, unless they hit, in an executable order."""
        self._steps, self._expected = tuple(steps), None
        self._left = {step.name: step for step in steps}

    def check(self, step: Step) -> None:
        """Raise StepError, with the last lines of the log, if a step needs a server that cannot start or died too often."""
        for name in served_models(step):
            if name in self._failed:
                raise StepError(self._failed[name])

    def are_ready(self, step: Step, request: WorkerRequest) -> bool:
        """Whether each of a step's served models has a server that answers, and a training step has the GPUs to itself.

        What is missing is started, or stopped.

        Raises:
            StepError: see `check`; or the cluster is too small for the servers of a step of this run.
        """
        if not self._checked and any(map(served_models, self._left.values())):
            self._start_executor()
            self._check_room()
        if not self._must_wait_for(step):
            return True
        self._start_executor()
        self._asked[step.name] = time.monotonic()
        self.check(step)
        served = served_models(step)
        if not served:
            return self._clear_gpus(step)
        self._left[step.name] = step  # by now it has the weights of models that steps have trained
        missing = {
            name: model for name, model in served.items() if name not in self._models and not self._join(name, model, step)
        }
        if missing and (self._training or not self._start(missing, step, request)):
            return False
        return all(self._models[name].addresses(name) for name in served)

    def watch(self, running: set[str]) -> None:
        """Process what has happened to the servers since the last call.

        Args:
            running: the steps some of whose partitions are running.
        """
        self._running = running
        self._ending = [server for server in self._ending if not server.has_stopped()]
        for group in self._groups:
            models = set(group.models)
            for number, server in list(group.servers.items()):
                if group.models:
                    self._take_status(group, number, server.look())
            self._announce(group, models)
        if self._models and self._executor.lacks_room:
            self.make_room("")

    @property
    def addresses(self) -> Mapping[str, Address]:
        """One server of each model that has one."""
        found = {name: group.addresses(name) for name, group in self._models.items()}
        return {name: addresses[0] for name, addresses in found.items() if addresses}

    def make_room(self, step: str) -> None:
        """Stop servers without work for other steps, because a step needs the resources that they hold."""
        for group in self._groups:
            if group.holds_resources and not self._is_busy(group, step):
                self._stop(group)

    def done(self, step: str) -> None:
        """A step has ended: stop the servers that no later step needs."""
        self._left.pop(step, None)
        self._asked.pop(step, None)
        self._training.discard(step)
        needed = {name for each in self._left.values() for name in served_models(each)}
        for group in self._groups:
            if needed.isdisjoint(group.models) and not (group.room and self._later(group.models)):
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

    def _must_wait_for(self, step: Step) -> bool:
        """Whether a step has to wait for servers to start, or to stop."""
        return bool(served_models(step)) or (
            _takes_gpus(step) and bool(self._ending or any(map(served_models, self._left.values())))
        )

    @property
    def _groups(self) -> list[Group]:
        return list(dict.fromkeys(self._models.values()))

    @property
    def _all(self) -> list[Server]:
        return [*(server for group in self._groups for server in group.servers.values()), *self._ending]

    def _is_busy(self, group: Group, beside: str) -> bool:
        """Whether a step has work for a group's servers; the step `beside` counts if it uses one of its models."""
        recently = time.monotonic() - _ASKED_SECONDS
        users = [step.name for step in self._left.values() if not group.models.keys().isdisjoint(served_models(step))]
        return any(name == beside or name in self._running or self._asked.get(name, 0.0) > recently for name in users)

    def _clear_gpus(self, step: Step) -> bool:
        """Whether no server has a GPU. A training that reserves none uses what it finds, so it waits until all are free."""
        for group in self._groups:
            if group.gpus and not self._is_busy(group, step.name):
                self._stop(group)
        if any(server.gpus for server in self._all):
            return False
        self._training.add(step.name)
        return True

    def _check_room(self) -> None:
        """Check, before any step begins, that each step of the run and its servers can run on the cluster."""
        for step in self._left.values():
            if served := served_models(step):
                launches = [each for group in self._grouped(served) for each in group.launches.values()]
                try:
                    self._executor.check_room(launches, request_of(step))
                except StepError as error:
                    raise StepError(f"step {step.name!r} cannot run here: {error}") from error
        self._checked = True

    def _start(self, models: Mapping[str, BoundModel], step: Step, request: WorkerRequest) -> bool:
        """Start the servers of some models, all or none; False while others use what they need."""
        groups = self._grouped(models)
        started = self._executor.start_servers([each for group in groups for each in group.launches.values()], request)
        if started is None:
            self.make_room(step.name)
            return False
        servers = iter(started)
        for group in groups:
            group.servers = {number: next(servers) for number in group.launches}
            self._models |= dict.fromkeys(group.models, group)
            for each in group.launches.values():
                self._say(f"{step.name}: starting {each.title} ({each.serve.what}); its log is {each.log}")
        return True

    def _grouped(self, models: Mapping[str, BoundModel]) -> list[Group]:
        """Some models, each with all others of the run that its servers can serve as well."""
        users = self._left.values()
        free = {name: model for step in users for name, model in served_models(step).items() if name not in self._models}
        shared = {name: model for name, model in free.items() if name not in self._alone}
        together = served_together({name: model for name, model in models.items() if name not in self._alone}, shared)
        groups = [Group(each, self._room_for(each), self._log(each)) for each in together]
        alone = [{name: model} for name, model in models.items() if name in self._alone]
        return groups + [Group(each, None, self._log(each)) for each in alone]

    def _log(self, models: Mapping[str, BoundModel]) -> Path:
        return self._folder.absolute() / f"{self._run_id}.{next(iter(models))}"

    def _room_for(self, models: Mapping[str, BoundModel]) -> AdapterRoom | None:
        """Room for several adapters, so that a broken one does not keep the others from being served, and for later ones."""
        if not all(map(loads_adapters, models.values())):
            return None
        later = self._later(models)
        names = {model.spec.model for model in models.values()} | later.keys()
        return (
            AdapterRoom(adapters=len(names), rank=max(map(expected_rank, later.values()), default=0))
            if len(names) > 1
            else None
        )

    def _later(self, models: Mapping[str, BoundModel]) -> dict[str, Model]:
        """The adapters that steps will train for other steps and that the servers of some models can load, by `model:`."""
        if self._expected is None:
            self._expected = expected_models(self._steps)
        one, found = next(iter(models.values())), {}
        for name, model in ((name, model) for step in self._left.values() for name, model in served_models(step).items()):
            if name not in self._models and name not in self._alone and model.weights is None and model.made_by is not None:
                made = self._expected.get(model.made_by.name)
                if made is not None and will_share(one, model, made):
                    found[model.spec.model] = made
        return found

    def _join(self, name: str, model: BoundModel, step: Step) -> bool:
        """Make running servers load a model; False if none can."""
        for group in self._groups:
            if name not in self._alone and group.can_load(model):
                self._say(f"{step.name}: model {name!r} is loaded into {group.title}")
                group.add(name, model)
                self._models[name] = group
                self._announce(group, {name})
                return True
        return False

    def _announce(self, group: Group, models: set[str]) -> None:
        """Tell the workers the new addresses of models that a group has, or had until now."""
        for model in models:
            now = group.addresses(model) if model in group.models else ()
            if now != group.told.get(model, ()):
                group.told[model] = now
                self._executor.serve(model, now)

    def _take_status(self, group: Group, number: int, status: Status) -> None:
        before, group.heard[number] = group.heard.get(number, Status()), status
        if status == before and status.state != "lost":
            return
        title = group.launch(number).title
        if status.deaths > before.deaths:
            why = status.why.partition("\n")[0].partition(";")[0]
            self._say(f"{title} died ({why}) and is restarted; its calls in flight are sent again")
        for name, why in status.refused.items():
            for model in [model for model, bound in group.models.items() if bound.spec.model == name]:
                self._refuse(group, model, f"{title} has not loaded model {model!r}: {why}", is_new=name not in before.refused)
        if not group.models:
            return
        if status.state == "ready" and before.state != "ready":
            assert status.address is not None
            title = group.launch(number).title
            self._say(f"{title} is ready after {status.seconds:.1f} s: {status.address.url}")
        if status.state == "lost":
            self._replace(group, number, status)
        if status.state == "failed":
            self._drop(group, number, status.why)

    def _refuse(self, group: Group, model: str, failure: str, *, is_new: bool) -> None:
        """Serve an adapter elsewhere that a server of its group refuses; or without that server, if steps already use it."""
        name = group.models[model].spec.model
        if model in group.told:
            if is_new:
                self._say(failure)
            if not all(name in status.refused for status in group.heard.values()):
                return
            self._failed[model] = failure
            self._executor.serve(model, ())
        else:
            self._say(f"{failure}; it gets its own servers")
            self._alone.add(model)
        del self._models[model]
        group.remove(model)
        if not group.models:
            self._end(group)

    def _replace(self, group: Group, number: int, status: Status) -> None:
        """Start a server again whose process on the node, or whose node, has died."""
        if group.lost[number] >= _MOST_LOST:
            self._drop(group, number, f"its worker process died {group.lost[number] + 1} times: {status.why}")
            return
        launch = group.launch(number)
        group.servers[number].kill()
        try:
            started = self._executor.start_servers([launch], None)  # its steps have workers
        except StepError as error:  # the node that is gone was the only one with room
            self._drop(group, number, str(error))
            return
        if started is not None:  # otherwise again in the next turn
            [group.servers[number]] = started
            group.lost[number] += 1
            group.heard[number] = Status(deaths=status.deaths)
            self._say(f"{launch.title} was lost with its worker process or node, and is restarted")

    def _drop(self, group: Group, number: int, why: str) -> None:
        """Continue without a server, or fail the steps that need it if it was the last one."""
        failure = f"{group.launch(number).title} cannot be used: {why}"
        self._ending.append(server := group.servers.pop(number))
        server.stop()
        del group.heard[number]
        if group.servers:
            self._say(failure)
        else:
            for model in group.models:
                self._failed[model] = failure
                del self._models[model]

    def _stop(self, group: Group) -> None:
        for model in group.models:
            del self._models[model]
            if group.told.get(model):
                self._executor.serve(model, ())
        self._end(group)

    def _end(self, group: Group) -> None:
        for server in group.servers.values():
            server.stop()
            self._ending.append(server)


def _takes_gpus(step: Step) -> bool:
    """Whether a step trains a model, or does other work with it, on GPUs that it has not reserved."""
    local = any(model.spec.provider == "transformers" for model in step.models.values())
    return step.operator.shape == "whole" and local and step.spec.resources.num_gpus is None
