"""When a worker dies, the others continue at once with its partitions and its share of the limits."""

from __future__ import annotations

import io
import itertools
import threading
import time
from functools import partial
from typing import Any

import psutil
import pytest
from rich.console import Console

from engine.execution import pool
from engine.execution.capacity import Amount, Capacity
from engine.execution.cluster import Cluster
from engine.execution.executor import Result, WorkerRequest
from engine.execution.pool import Pool
from engine.execution.processes import Call, PoolStep, Process
from engine.execution.ray_environment import Home
from engine.jobs.messages import Partition
from engine.jobs.partitions import Size
from engine.spec.pipeline_spec import Resources
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, outcomes, run_text, texts, words

pytestmark = pytest.mark.usefixtures("ray_session")

IN_FLIGHT = 8


def kill_a_worker() -> None:
    """`kill -9` one of this process's Ray workers."""
    for process in psutil.Process().children(recursive=True):
        if any("RayHost" in word for word in process.cmdline()):
            process.kill()
            return
    raise AssertionError("there is no worker")


@pytest.mark.parametrize("rows", [160, pytest.param(2000, marks=pytest.mark.soak)])
def test_the_other_worker_continues_when_one_is_killed(registry: Registry, chat_server: ChatServer, rows: int) -> None:
    arrivals: list[float] = []
    killed: list[float] = []

    def answer(prompt: str, seen: int) -> str:
        arrivals.append(time.monotonic())
        if len(arrivals) >= 30 and not killed:
            killed.append(time.monotonic())
            kill_a_worker()
        return prompt

    chat_server.answer, chat_server.latency = answer, 0.05
    words(*[str(number) for number in range(rows)])
    model = chat_server.model(limits={"concurrency": IN_FLIGHT}, max_calls=rows + IN_FLIGHT)
    result = run_text(
        f"{{name: demo, datasets: {{words: {{type: Word, path: words.jsonl}}}}, models: {{teacher: {model}}}, "
        "steps: {asked: {op: ask_once, in: words, resources: {workers: 2, num_cpus: 0.5}}}}",
        registry,
    )
    assert result.state == "succeeded", result.error
    assert texts(registry, "demo/asked") == [f"Say {number}" for number in range(rows)]
    # Only requests that were in flight are sent again, and all of them count.
    assert rows <= len(chat_server.requests) <= rows + IN_FLIGHT
    assert ask(registry, "select rows_out, rejected from step_runs") == [(rows, 0)]
    if rows > 1000:
        gap = max(later - earlier for earlier, later in itertools.pairwise(arrivals) if later > killed[0])
        print(f"longest time without a request after the kill: {gap:.1f} s")
        assert gap < 5


def test_a_dead_workers_spending_counts_in_later_steps(registry: Registry, chat_server: ChatServer) -> None:
    killed: list[bool] = []

    def answer(prompt: str, seen: int) -> str:
        if len(chat_server.requests) >= 20 and not killed:
            killed.append(True)
            kill_a_worker()
        return prompt

    chat_server.answer, chat_server.latency = answer, 0.02
    words(*[str(number) for number in range(60)])
    model = chat_server.model(limits={"concurrency": 4}, max_calls=90)
    steps = "one: {op: ask_once, in: words}, two: {op: ask_once, in: one}"
    result = run_text(
        f"{{name: demo, datasets: {{words: {{type: Word, path: words.jsonl}}}}, models: {{teacher: {model}}}, steps: {{{steps}}}}}",
        registry,
    )
    assert result.error
    assert "max_calls 90" in result.error
    assert len(chat_server.requests) <= 90


def test_an_operator_that_a_worker_cannot_load_is_reported(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    words("a")
    monkeypatch.setattr("engine.execution.pool.Job.model_dump_json", lambda job: "{}")
    result = run_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {s: {op: shout, in: words}}}", registry
    )
    assert result.error
    assert "a worker could not be started" in result.error


def test_only_the_partition_that_ends_its_process_fails(registry: Registry) -> None:
    words("die")
    words("calm", file="others.jsonl")
    result = run_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}, others: {type: Word, path: others.jsonl}}, "
        "steps: {beside: {op: patient, in: others, resources: {workers: 1}}, d: {op: dies, in: words, resources: {workers: 1}}}}",
        registry,
    )
    assert outcomes(result) == {"beside": "ran", "d": "failed"}
    assert result.error
    assert "a worker process died 3 times at rows 0 to 0" in result.error
    assert "beside" not in result.error


def test_a_death_is_reported_in_one_line(registry: Registry) -> None:
    words("die")
    shown = io.StringIO()
    run_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, "
        "steps: {d: {op: dies, in: words, resources: {workers: 1}}}}",
        registry,
        console=Console(file=shown),
    )
    # The third death is the step's error.
    line = "d: a worker process died. Another one takes over its unfinished rows"
    assert [each for each in shown.getvalue().splitlines() if "process died" in each] == [line, line]


def test_a_process_that_is_killed_for_lack_of_memory_is_replaced(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.exceptions import OutOfMemoryError

    take = Pool._take
    killed: list[Any] = []

    def kill(done: Any) -> None:
        killed.append(done)
        raise OutOfMemoryError("Memory on the node was 126.1GB / 128.0GB")

    def take_after_a_kill(pool: Pool, process: Process, done: Any) -> None:
        with monkeypatch.context() as patch:
            if done in process.running and not killed:
                patch.setattr(ray, "get", kill)
            take(pool, process, done)

    monkeypatch.setattr(Pool, "_take", take_after_a_kill)
    words("a", "b")
    shown = io.StringIO()
    result = run_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {s: {op: shout, in: words}}}",
        registry,
        console=Console(file=shown, width=200),
    )
    assert result.state == "succeeded", result.error
    assert texts(registry, "demo/s") == ["A!", "B!"]
    assert len(killed) == 1
    assert "s: a worker process died because the machine was out of memory. Another one takes over" in shown.getvalue()


def test_ray_does_not_print_its_own_messages() -> None:
    assert "ray_listen_error_messages" not in [thread.name for thread in threading.enumerate()]


class Watched(Cluster):
    """Keeps what was submitted and what came back."""

    def __init__(self, registry: str) -> None:
        super().__init__(registry)
        self.submitted: list[str] = []
        self.returned: list[str] = []

    def submit(self, step: str, part: Partition) -> None:
        super().submit(step, part)
        self.submitted.append(part.digest)

    def next(self, seconds: float) -> Result | None:
        found = super().next(seconds)
        if found:
            self.returned.append(found.result.digest)
        return found


class WithOneGoodHome(Pool):
    """The first process starts. While it works, no other process can be started."""

    def _start(self, shape: Any, amount: Amount) -> Any:
        if self._processes:
            if not any(process.running for process in self._processes):
                return None
            self._home = Home("/nowhere", ())
        return super()._start(shape, amount)


def test_running_partitions_return_when_another_worker_cannot_start(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.jobs.partitions.COMPUTED", Size(1, 1, by_content=False))
    monkeypatch.setattr("engine.execution.cluster.Pool", WithOneGoodHome)
    words(*"abcdefgh")
    cluster = Watched(registry.location)
    result = run_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, "
        "steps: {s: {op: patient, in: words, resources: {workers: 2, num_cpus: 0.5}, with: {seconds: 3}}}}",
        registry,
        cluster=cluster,
    )
    assert result.error
    assert "a worker could not be started" in result.error
    assert sorted(cluster.returned) == sorted(cluster.submitted)
    # Partitions that were running are kept.
    assert len(list(registry.receipts.glob("*/" + "[0-9a-f]" * 64 + ".json"))) == 2


@pytest.mark.parametrize("known", [True, False])
def test_an_idle_process_makes_room_for_another(registry: Registry, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """The pool knows that there is no room, or only notices that the other process does not start."""
    import ray

    monkeypatch.setattr(pool, "_START_SECONDS", 0.0)
    cpus = ray.cluster_resources()["CPU"]
    words("a", "b")
    if not known:
        monkeypatch.setattr("engine.execution.cluster._nodes", lambda: Capacity((Amount(8 * cpus),)))
    steps = f"one: {{op: shout, in: words, resources: {{num_cpus: {cpus:g}}}}}, two: {{op: joined, in: one}}"
    result = run_text(f"{{name: demo, datasets: {{words: {{type: Word, path: words.jsonl}}}}, steps: {{{steps}}}}}", registry)
    assert result.state == "succeeded", result.error
    assert texts(registry, "demo/two") == ["A! B!"]


def test_a_worker_needs_room_on_one_node(registry: Registry) -> None:
    two = Pool(registry.location, lambda: Capacity((Amount(1), Amount(1))), None, shared_limits=False)
    half, whole = Resources(num_cpus=0.5, workers=2), WorkerRequest("whole", "compute", Resources(num_cpus=1))
    for number in range(2):
        assert two.place(whole)
        process = two._start(("compute", half), Amount.of(half))
        process.running[number] = Call("halves", (Partition(digest=str(number), rows=1),), 0.0)
    assert two.place(whole) is None
    assert two.place(WorkerRequest("another", "whole", half))
    two.end()


def test_finished_partitions_of_a_call_survive_the_end_of_its_process(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions that a call has finished when its process dies are kept. Each of the others then gets a call of its own."""
    monkeypatch.setattr("engine.jobs.partitions.COMPUTED", Size(1, 1, by_content=False))
    monkeypatch.setattr(pool, "PoolStep", partial(PoolStep, per_call=8))
    sent: list[int] = []
    send = Process.send
    monkeypatch.setattr(Process, "send", lambda process, step, parts: (sent.append(len(parts)), send(process, step, parts)))
    words(*"abc", "die", *"efgh")
    result = run_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, "
        "steps: {d: {op: dies, in: words, resources: {workers: 1}}}}",
        registry,
    )
    assert result.error
    assert "a worker process died 3 times at rows 3 to 3" in result.error
    assert sent[0] == 8
    assert {*sent[1:]} == {1}
    assert len(list(registry.receipts.glob("*/" + "[0-9a-f]" * 64 + ".json"))) >= 3
