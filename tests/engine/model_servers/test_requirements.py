"""Servers are asked what they can do before a step is paid for, while other steps continue."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

from engine.execution.executor import Result
from engine.llm.limits.accounting import Spent
from engine.model_servers.requirements import check_needs
from engine.pipeline.check import check
from registry import Registry
from tests.chat_server import ChatServer, completion
from tests.engine.run_pipelines import outcomes, run_text, words
from tests.in_process import InProcess

STEPS = "sure: {op: sure, in: words}, loud: {op: shout, in: words}"


def pipeline(model: str, steps: str) -> str:
    return f"{{name: demo, models: {{teacher: {model}}}, datasets: {{words: {{type: Word, path: words.jsonl}}}}, steps: {{{steps}}}}}"


class Watched(InProcess):
    """Notes when a partition of `loud` has come back."""

    def __init__(self) -> None:
        super().__init__()
        self.loud = threading.Event()

    def next(self, seconds: float) -> Result | None:
        found = super().next(seconds)
        if found and found.step == "loud":
            self.loud.set()
        return found


def test_other_steps_continue_while_a_server_is_probed(registry: Registry, chat_server: ChatServer) -> None:
    cluster, went_on = Watched(), list[bool]()

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        went_on.append(cluster.loud.wait(20))
        done = completion("fine")
        done["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}
        return done

    chat_server.reply = reply
    words("a")
    result = run_text(pipeline(chat_server.model(), STEPS), registry, cluster=cluster)
    assert outcomes(result) == {"sure": "ran", "loud": "ran"}
    assert all(went_on)


def test_servers_are_probed_for_one_step_at_a_time_and_the_next_step_knows_the_result(
    registry: Registry, chat_server: ChatServer
) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        done = completion("fine")
        done["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}
        return done

    chat_server.reply, chat_server.latency = reply, 0.5
    words("a")
    # One request is the probe; the two steps ask the same question, which is one more. A second probe would exceed the budget.
    steps = "one: {op: sure, in: words}, two: {op: sure, in: words, max_reject_ratio: 0.5}"
    result = run_text(pipeline(chat_server.model(max_calls=2), steps), registry, cluster=InProcess())
    assert result.state == "succeeded", result.error
    assert len(chat_server.requests) == 2


def test_the_cost_of_a_failed_check_is_reported(registry: Registry, chat_server: ChatServer) -> None:
    words("a")
    Path("p.yaml").write_text(pipeline(chat_server.model(), STEPS))
    checked = asyncio.run(check_needs(check(Path("p.yaml")).steps["sure"], registry, {}))
    assert "does not support `logprobs`" in checked.problem
    assert checked.spent == {"teacher": Spent(calls=1)}


def test_a_run_that_ends_stops_probing(registry: Registry, chat_server: ChatServer) -> None:
    words("boom")
    chat_server.latency = 60
    began = time.monotonic()
    result = run_text(
        pipeline(chat_server.model(), "sure: {op: sure, in: words}, bad: {op: broken, in: words}"),
        registry,
        cluster=InProcess(),
    )
    assert outcomes(result) == {"sure": "stopped", "bad": "failed"}
    assert time.monotonic() - began < 30
    assert not [thread for thread in threading.enumerate() if thread.name == "needs"]
