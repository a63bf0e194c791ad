"""When a worker dies, the others continue at once with its partitions and its share of the limits."""

from __future__ import annotations

import itertools
import time

import psutil
import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, run_text, texts, words

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
    # No more than what was under way is asked again, and all of it counts.
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
    monkeypatch.setattr("engine.running.pool.Job.model_dump_json", lambda job: "{}")
    result = run_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {s: {op: shout, in: words}}}", registry
    )
    assert result.error
    assert "a worker could not be started" in result.error
