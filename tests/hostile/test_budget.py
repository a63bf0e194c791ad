"""A budget is an upper bound on what the server bills, and `max_calls` on what it receives, whatever it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.llm import client
from engine.llm.client import ModelClient
from engine.llm.journal.answers import Journal
from engine.llm.limits import adaptive_window, outage
from engine.llm.limits.governor import Governor
from engine.llm.providers.openai import OpenAIProvider
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from tests.chat_server import ChatServer, completion, error

MAX_TOKENS = 20
ANSWERS = ["fine", "fine", "empty", "slow", "reset", "cut off", "garbled", 500, 502, 504, 408, 503, 429, 400]
NOT_BILLED = {503, 429, 400}
USAGES: list[Any] = ["honest", "honest", None, {}, [], "many", {"prompt_tokens": 0, "completion_tokens": 0}]
USAGES += [{"prompt_tokens": -(10**6), "completion_tokens": -(10**6)}, {"prompt_tokens": 2**62, "completion_tokens": -1}]
USAGES += [{"completion_tokens": 1}, {"prompt_tokens": 1}, {"prompt_tokens": "9", "completion_tokens": 2.5}]


@dataclass
class Biller:
    """Answers by a script, and adds up the invoice: one token per byte of the prompt, the template and the whole answer."""

    server: ChatServer
    template: int
    script: Iterator[tuple[Any, Any]]
    invoice: int = 0
    requests: int = 0
    problems: list[str] = field(default_factory=list)

    def reply(self, body: dict[str, Any]) -> web.Response | dict[str, Any]:
        """The next answer of the script."""
        self.requests += 1
        how, usage = next(self.script)
        prompt = sum(len(message["content"].encode()) for message in body["messages"]) + self.template
        self.invoice += 0 if how in NOT_BILLED else prompt + MAX_TOKENS
        if isinstance(how, int):
            return error(how, "scripted")
        if how == "reset":
            raise ConnectionResetError
        answer = completion("" if how == "empty" else "word " * MAX_TOKENS)
        answer["usage"] = {"prompt_tokens": prompt, "completion_tokens": MAX_TOKENS} if usage == "honest" else usage
        text = json.dumps(answer).encode()
        if how in ("cut off", "garbled"):
            return web.Response(body=text[:-20] if how == "cut off" else b"<html>", content_type="application/json")
        return answer


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the pauses between attempts."""
    monkeypatch.setattr(client, "seconds_to_wait", lambda *_: 0.0)
    monkeypatch.setattr(outage, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(outage, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(adaptive_window, "_LONGEST_PAUSE", 0.0)


async def ask_all(folder: Path, spec: ModelSpec, rows: int) -> list[Any]:
    """The outcomes of rows that are processed at the same time."""
    journal = Journal(folder)
    model = ModelClient(spec, spec.model, journal, Governor(spec), lambda: OpenAIProvider(spec, journal))
    asked = [
        Request(spec.endpoint, spec.model, ({"role": "user", "content": f"row {number}"},), spec.sampling())
        for number in range(rows)
    ]
    done = await asyncio.gather(*[model.answer([each]) for each in asked], return_exceptions=True)
    await model.close()
    journal.close()
    return done


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(st.tuples(st.sampled_from(ANSWERS), st.sampled_from(USAGES)), min_size=1, max_size=12),
    template=st.integers(0, 120),
    budget=st.integers(1, 4000),
    retries=st.integers(0, 3),
    calls=st.integers(1, 40),
)
def test_the_invoice_is_within_the_budget_whatever_the_server_does(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    script: list[tuple[Any, Any]],
    template: int,
    budget: int,
    retries: int,
    calls: int,
) -> None:
    quickly(monkeypatch)
    with ChatServer() as server:

        def forever() -> Iterator[tuple[Any, Any]]:
            while True:
                yield from script

        biller = Biller(server, template, forever())
        server.reply = biller.reply
        server.hold = lambda body: 0.3 if script[biller.requests % len(script)][0] == "slow" else 0.0
        more = {"max_tokens": MAX_TOKENS, "retries": retries, "timeout": 0.15, "max_calls": calls, "budget_usd": budget}
        price = {"input": 1_000_000, "output": 1_000_000}  # a dollar a token
        spec = ModelSpec.model_validate(json.loads(server.model(price=price, **more)))
        asyncio.run(ask_all(tmp_path_factory.mktemp("journal"), spec, 30))
    assert biller.invoice <= budget
    assert biller.requests <= calls


def test_a_template_that_adds_much_to_every_prompt_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_server: ChatServer
) -> None:
    quickly(monkeypatch)
    biller = Biller(chat_server, 1500, iter([("fine", "honest")] * 100))
    chat_server.reply = biller.reply
    chat_server.latency = 0.01
    price = {"input": 1_000_000, "output": 1_000_000}
    spec = json.loads(chat_server.model(price=price, max_tokens=MAX_TOKENS, budget_usd=20_000))
    done = asyncio.run(ask_all(tmp_path, ModelSpec.model_validate(spec), 60))
    assert 8_000 < biller.invoice <= 20_000
    assert "budget_usd 20000 of model test-model is used up" in str(done[-1])


def test_requests_that_time_out_use_the_budget_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_server: ChatServer
) -> None:
    quickly(monkeypatch)
    chat_server.latency = 5
    price = {"input": 1_000_000}
    spec = json.loads(chat_server.model(price=price, budget_usd=2000, timeout=0.05, retries=50))
    done = asyncio.run(ask_all(tmp_path, ModelSpec.model_validate(spec), 50))
    assert len(chat_server.requests) < 2000 / len("row 1")
    assert "for requests whose cost the server did not report" in str(done[-1])
