"""The worker processes of a run: Ray actors, each with the workers of the steps that use it.

Ray only carries messages and starts processes. The driver decides which process runs which partition, and who takes over from
one that died; the others continue at once while a new one starts.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from engine.execution.capacity import Amount, Capacity
from engine.execution.deaths import Deaths, explain
from engine.execution.executor import Death, Result, Server, WorkerRequest
from engine.execution.jobs import MOST_CONCURRENT, in_flight
from engine.execution.processes import PoolStep, Process, Shape
from engine.execution.ray_actors import RayHost, actor_class, death_errors, kill, start_service
from engine.execution.ray_environment import Home
from engine.execution.ray_servers import start_server
from engine.execution.server_room import check_programs, check_room, resources_of
from engine.jobs.messages import Failure, Job, Partition, Receipt
from engine.llm.types.model_spec import Address
from engine.serving.launch import Launch
from engine.spec.pipeline_spec import Resources

_MOST_FAILED_STARTS = 3
"""If this many processes in a row die before they are ready, no more are started."""

_START_SECONDS = 15.0
"""Seconds after which a process that has not started probably waits for resources."""

_LOOK_SECONDS = 2.0
"""Seconds between two looks at the nodes of the cluster."""


class Pool:
    """All worker processes of a run.

    Args:
        registry: the location of the run's registry.
        nodes: returns what the cluster has.
        home: the working folder and import path of processes on this machine (None: Ray's own).
        shared_limits: see Executor.start.
    """

    def __init__(self, registry: str, nodes: Callable[[], Capacity], home: Home | None, *, shared_limits: bool) -> None:
        import ray

        self._registry = registry
        self._nodes = nodes
        self._home = home
        self._node = ray.get_runtime_context().get_node_id()
        self._known, self._looked_at = nodes(), time.monotonic()
        shared = shared_limits or len(self._known.nodes) > 1
        self._service = start_service(registry, self._node) if shared else None
        self._numbers = itertools.count(1)
        self._failed_starts = 0
        self._deaths = Deaths()
        self._unreported: list[Death] = []
        self._processes: list[Process] = []
        self._steps: dict[str, PoolStep] = {}
        self._results: deque[Result] = deque()
        self._held: list[Amount] = []
        self._lacks_room = False
        self._addresses: dict[str, tuple[Address, ...]] = {}

    # -- the driver's side ----------------------------------------------------------------------------------------------

    def place(self, request: WorkerRequest) -> Resources | None:
        """See Executor."""
        resources = self._capacity().resources_for(request)
        shape = _shape(request, resources)
        if any(process.shape == shape for process in self._processes):
            return resources
        return resources if self._make_room([Amount.of(resources)] * request.devices, needed=True) else None

    def open(self, job: Job, request: WorkerRequest, resources: Resources) -> None:
        """See Executor."""
        import ray

        several = request.devices > 1
        text = job.model_dump_json()
        if self._service is not None and job.models:
            ray.get(self._service.add_models.remote(text))
        workers = 1 if several else resources.workers or 1
        self._steps[job.step] = PoolStep(
            text,
            _shape(request, resources),
            workers,
            in_flight(job, request, workers),
            (Amount.of(resources),) * request.devices if several else (),
        )

    def room(self, step: str) -> int:
        """See Executor."""
        about = self._steps[step]
        running = sum(process.load(step) for process in self._processes)
        return about.workers * about.in_flight * about.per_call - running - len(about.waiting)

    def submit(self, step: str, part: Partition) -> None:
        """See Executor."""
        self._steps[step].waiting.append(part)

    def next(self, seconds: float) -> Result | None:
        """See Executor. Processes that die meanwhile are replaced; if Ray itself has died, all steps fail."""
        import ray
        from ray.exceptions import RayError

        until = time.monotonic() + seconds
        try:
            while not self._results:
                self._distribute()
                processes = {ref: process for process in self._processes for ref in process.waited_for}
                if self._results or not processes:
                    if seconds > 0 and not self._results:
                        # This run waits for another one, which may need what our idle processes hold.
                        self._end_an_idle_process()
                    break
                done, _ = ray.wait([*processes], num_returns=1, timeout=max(0.0, until - time.monotonic()))
                if not done:
                    self._help_a_process_to_start()
                    return None
                self._take(processes[done[0]], done[0])
        except RayError as error:
            self.end()
            for name, part in (each for process in self._processes for each in process.parts()):
                if name in self._steps:
                    self._steps[name].waiting.append(part)
            self._processes.clear()
            for name in self._steps:
                self._give_up(name, f"a worker was lost and could not be replaced: {_last_line(error)}")
        return self._results.popleft() if self._results else None

    def halt(self, step: str) -> None:
        """See Executor."""
        about = self._steps[step]
        about.halted = True
        while about.waiting:
            self._results.append(Result(step, Failure(digest=about.waiting.popleft().digest, message="stopped", stopped=True)))
        for process in self._processes:
            if step in process.opened:
                process.actor.stop.remote(step)

    def close(self, step: str) -> None:
        """See Executor."""
        about = self._steps.pop(step)
        for process in [each for each in self._processes if each.shape == about.shape]:
            if about.shape[0] == step:
                self._end(process)
            elif step in process.opened:
                process.opened.discard(step)
                process.actor.end.remote(step)
            process.opening = {ref: name for ref, name in process.opening.items() if name != step}

    def check_room(self, servers: Sequence[Launch], request: WorkerRequest) -> None:
        """See Executor."""
        check_programs(servers)
        check_room(self._capacity(), servers, request)

    def start_servers(self, servers: Sequence[Launch], request: WorkerRequest | None) -> list[Server] | None:
        """See Executor."""
        capacity = self._capacity()
        resources = [resources_of(each.serve, capacity) for each in servers]
        worker = [Amount.of(capacity.resources_for(request))] * request.devices if request else []
        if not self._make_room([*map(Amount.of, resources), *worker], needed=True):
            return None
        return [start_server(*each, self._registry, self._home, self._held) for each in zip(servers, resources, strict=True)]

    @property
    def lacks_room(self) -> bool:
        """See Executor."""
        lacks, self._lacks_room = self._lacks_room, False
        return lacks

    def deaths(self) -> Sequence[Death]:
        """See Executor."""
        deaths, self._unreported = self._unreported, []
        return deaths

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """See Executor."""
        self._addresses[model] = tuple(addresses)
        for process in self._processes:
            process.actor.serve.remote(model, self._addresses[model])

    def end(self) -> None:
        """End all processes."""
        for process in self._processes:
            kill(process.actor)
        if self._service is not None:
            kill(self._service)

    # -- processes ------------------------------------------------------------------------------------------------------

    def _distribute(self) -> None:
        """Send partitions that wait to the processes with the fewest, and start processes where there are too few."""
        for name, step in self._steps.items():
            while step.waiting:
                own = [process for process in self._processes if process.shape == step.shape][: step.workers]
                share = self._share(name, step, own)
                ready = [
                    process
                    for process in own
                    if process.calls(name) < step.in_flight
                    and process.load(name) < share
                    and self._can_run(process, name, step.waiting[0])
                ]
                if ready:
                    process = min(ready, key=lambda process: len(process.running))
                    # While any partition may have ended its process, each gets its own call.
                    most = 1 if self._deaths else min(step.per_call, share - process.load(name), len(step.waiting))
                    process.send(name, tuple(step.waiting.popleft() for _ in range(most)))
                    continue
                self._prepare(name, step, own)
                break

    def _can_run(self, process: Process, name: str, part: Partition) -> bool:
        """Whether a process can take a partition now. One that may have ended its process twice runs alone."""
        if name not in process.opened:
            return False
        if not self._deaths:
            return True
        if self._deaths.is_suspect(name, part):
            return not process.running
        steps = [
            (other, step.waiting[0]) for other, step in self._steps.items() if step.waiting and step.shape == process.shape
        ]
        # A suspect that waits comes next, or it might wait forever.
        return not any(self._deaths.is_suspect(*each) for each in (*process.parts(), *steps))

    def _prepare(self, name: str, step: PoolStep, own: list[Process]) -> None:
        """Open a step in the processes that it can use, and start more of them as far as resources allow."""
        for process in own:
            if process.starting is None and name not in process.opened and name not in process.opening.values():
                process.opening[process.actor.open.remote(step.job)] = name
        amount = Amount.of(step.shape[1])
        at_work = len(step.waiting) + sum(process.load(name) for process in own)
        # Starting a process takes longer than computing a few partitions.
        wanted = -(-at_work // (step.in_flight * step.per_call)) if step.shape[0] == "compute" else at_work
        for number in range(len(own), min(step.workers, wanted)):
            if not self._make_room([amount], needed=number == 0):
                self._lacks_room = self._lacks_room or number == 0
                return
            self._start(step.shape, amount)

    def _share(self, name: str, step: PoolStep, own: list[Process]) -> int:
        """An equal share of a step's partitions, so that the first process to start does not take them all."""
        return -(-(len(step.waiting) + sum(process.load(name) for process in own)) // max(1, len(own)))

    def _make_room(self, amounts: Sequence[Amount], *, needed: bool) -> bool:
        """Whether there is room for another process, or for devices; if it is `needed`, idle ones make room for it."""
        while not self._capacity().has_room(amounts, beside=self._taken):
            if not needed:
                return False
            if not self._end_an_idle_process():
                # If none of our own processes is in the way, others use the cluster, and Ray makes us wait for them.
                return not self._taken
        return True

    def _start(self, shape: Shape, amount: Amount) -> Process:
        name = f"worker {next(self._numbers)}"
        host = actor_class(RayHost, shape[1], MOST_CONCURRENT)
        actor = host.remote(self._registry, self._service, self._node, name, self._home)
        process = Process(name, shape, amount, actor, actor.ready.remote(), time.monotonic())
        self._processes.append(process)
        for model, addresses in self._addresses.items():
            actor.serve.remote(model, addresses)
        return process

    def _take(self, process: Process, done: Any) -> None:
        """Process the outcome of a call to a worker process that has returned.

        Args:
            process: the worker process.
            done: the future of the call.
        """
        import ray
        from ray.exceptions import ObjectLostError, RayTaskError

        try:
            result = ray.get(done)
        except (*death_errors(), ObjectLostError) as error:
            self._replace(process, error)
            return
        except RayTaskError as error:
            # Only `open` raises; errors of partitions are results.
            self._give_up(process.opening.pop(done, ""), f"a worker could not be started: {_last_line(error)}")
            return
        if done == process.starting:
            process.starting, self._failed_starts = None, 0
        elif done in process.opening:
            process.opened.add(process.opening.pop(done))
        else:
            call = process.running.pop(done)
            if call.step in self._steps:
                self._steps[call.step].returned(call)
            for part, (failed, text) in zip(call.parts, result, strict=True):
                self._deaths.forget(call.step, part)
                self._results.append(Result(call.step, (Failure if failed else Receipt).model_validate_json(text)))

    def _replace(self, process: Process, error: Exception) -> None:
        """Remove a process that died; others take over its partitions and its share of the limits."""
        self._end(process)  # it may only be disconnected; then it must not continue
        if self._service is not None:
            self._service.call.remote("remove_worker", process.name)
        if process.starting is not None:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS or "creation task" in str(error):
                for name in [name for name, step in self._steps.items() if step.shape == process.shape]:
                    self._give_up(name, f"a worker could not be started: {_last_line(error)}")
            return
        again: dict[str, None] = {}
        for name, part in reversed([*process.parts()]):
            self._deaths.add(name, part)
            step = self._steps.get(name)
            if step is None:
                continue
            if step.halted:
                self._results.append(Result(name, Failure(digest=part.digest, message="stopped", stopped=True)))
            elif self._deaths.is_cause(name, part):
                self._results.append(Result(name, Failure(digest=part.digest, message=explain(part))))
            else:
                step.waiting.appendleft(part)
                again[name] = None
        if again:
            self._unreported.append(Death(tuple(sorted(again)), _is_out_of_memory(error)))

    def _give_up(self, name: str, message: str) -> None:
        """Fail the waiting partitions of a step, because no process can run them. Running partitions continue."""
        waiting = self._steps[name].waiting if name in self._steps else deque[Partition]()
        for number, part in enumerate(waiting):
            self._results.append(Result(name, Failure(digest=part.digest, message=message, stopped=number > 0)))
        waiting.clear()

    def _end(self, process: Process) -> None:
        self._processes.remove(process)
        kill(process.actor)

    def _end_an_idle_process(self) -> bool:
        """End a process that runs nothing, to make room for others; returns whether there was one."""
        wanted = {step.shape for step in self._steps.values() if step.waiting}
        idle = [
            each
            for each in self._processes
            if each.amount != Amount() and not each.running and (not each.waited_for or each.shape not in wanted)
        ]
        if idle:
            self._end(idle[0])
        return bool(idle)

    def _help_a_process_to_start(self) -> None:
        """End an idle process if another one has been starting for long: it may wait for the idle one's node, GPU or memory."""
        now = time.monotonic()
        if any(each.starting is not None and now - each.began > _START_SECONDS for each in self._processes):
            self._end_an_idle_process()

    def _capacity(self) -> Capacity:
        """The resources of the cluster now; nodes may come and go."""
        now = time.monotonic()
        if now - self._looked_at > _LOOK_SECONDS:
            self._looked_at, self._known = now, self._nodes()
        return self._known

    @property
    def _taken(self) -> list[Amount]:
        """The resources that this run uses: its processes, the devices of its trainings, and its servers."""
        processes = [process.amount for process in self._processes if process.amount != Amount()]
        devices = [device for step in self._steps.values() for device in step.devices if device != Amount()]
        return processes + devices + [held for held in self._held if held != Amount()]


def _shape(request: WorkerRequest, resources: Resources) -> Shape:
    own = request.step if request.kind == "whole" else request.kind
    if request.devices > 1:  # the resources go to the devices; the worker only waits for them
        resources = Resources(num_cpus=0, num_gpus=0)
    return own, resources.model_copy(update={"workers": None})


def _is_out_of_memory(error: Exception) -> bool:
    from ray.exceptions import OutOfMemoryError

    return isinstance(error, OutOfMemoryError)


def _last_line(error: Exception) -> str:
    if _is_out_of_memory(error):
        return "the machine is out of memory"  # Ray's last line is advice about its own settings
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
