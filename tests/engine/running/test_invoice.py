"""The dollars in a run's summary are those on the server's invoice, with caches, reasoning, retries, samples and batches."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from engine.llm import client
from engine.llm.batches import provider as batches
from engine.llm.limits import adaptive_window
from registry import Registry
from tests.batch_server import BatchServer
from tests.chat_server import ChatServer, completion, error, message
from tests.engine.run_pipelines import ask, run_text, words
from tests.message_batch_server import MessageBatchServer

PRICE = {"input": 3.0, "cached_input": 0.3, "cache_write": 3.75, "output": 15.0}
ROWS = 24


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(client, "seconds_to_wait", lambda *_: 0.0)
    monkeypatch.setattr(adaptive_window, "_LONGEST_PAUSE", 0.0)
    monkeypatch.setenv("ENGINE_BATCH_POLL_SECONDS", "0.02")


@dataclass
class Ledger:
    """What a server bills, in US dollars, and how its answers end. Each list is repeated without end."""

    ends: list[str]
    factor: float = 1.0
    usd: float = 0.0
    billed: int = 0
    _numbers: Any = field(default_factory=itertools.count)

    def next(self) -> tuple[int, str]:
        """The number of a request, and its end."""
        number = next(self._numbers)
        return number, self.ends[number % len(self.ends)]

    def bill(self, fresh: int, cached: int, written: int, out: int) -> None:
        """Tokens that the prompt cost at full price, from the cache, and into it; and those of the answer."""
        names = ("input", "cached_input", "cache_write", "output")
        self.usd += (
            self.factor
            * sum(PRICE[name] * count for name, count in zip(names, (fresh, cached, written, out), strict=True))
            / 1e6
        )
        self.billed += 1


def openai(ledger: Ledger, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A status and a body as OpenAI sends them, entered in the ledger."""
    number, end = ledger.next()
    if end in ("429", "500", "400"):
        return int(end), {"error": {"message": "scripted"}}
    texts = [f"answer {number}.{sample}" for sample in range(body.get("n", 1))]
    if end == "json":
        texts = [json.dumps({"score": 5})] * len(texts)
    if end == "some empty":
        texts[0] = ""
    prompt, cached = 1000 + number % 7, 640 * (number % 2)
    thought, out = 100, 100 * len(texts) + 150
    made = completion(*texts)
    made["usage"] = {
        "prompt_tokens": prompt,
        "completion_tokens": out,
        "total_tokens": prompt + out,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }
    for choice in made["choices"]:
        if end in ("length", "content_filter"):
            choice["finish_reason"] = end
        if end == "broken off":
            choice |= {"finish_reason": "error", "error": {"code": 502, "message": "the provider hung up"}}
    ledger.bill(prompt - cached, cached, 0, out)
    return 200, made


def anthropic(ledger: Ledger, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The same as Anthropic sends them."""
    number, end = ledger.next()
    if end in ("429", "500", "400"):
        return int(end), {"error": {"message": "scripted"}}
    fresh, cached, written, out = 50 + number % 5, 700 * (number % 2), 700 * (number % 2 == 0), 220
    ledger.bill(fresh, cached, written, out)
    blocks = [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, {"type": "text", "text": f"answer {number}"}]
    return 200, message(
        *(blocks[:1] if end == "empty" else blocks),
        stop_reason=end if end in ("refusal", "max_tokens") else "end_turn",
        input_tokens=fresh,
        output_tokens=out,
        cache_read_input_tokens=cached,
        cache_creation_input_tokens=written,
    )


def served(ledger: Ledger, body: dict[str, Any]) -> web.Response | dict[str, Any]:
    status, made = (anthropic if "system" in body else openai)(ledger, body)
    return made if status == 200 else error(status, "scripted")


CHAT_ENDS = ["stop", "429", "some empty", "broken off", "stop", "500", "stop", "content_filter", "length", "400", "stop"]
STRUCTURED_ENDS = ["json", "stop", "json", "broken off", "json", "stop", "stop", "500"]
CLAUDE_ENDS = ["end_turn", "429", "empty", "end_turn", "refusal", "max_tokens", "500", "end_turn", "400"]
OPENAI_BATCH_ENDS = ["stop", "500", "stop", "content_filter", "broken off", "stop"]
CLAUDE_BATCH_ENDS = ["end_turn", "500", "end_turn", "refusal", "empty", "end_turn"]


@pytest.mark.usefixtures("in_process")
def test_the_summary_is_the_invoice(registry: Registry) -> None:
    kinds = {"chat": CHAT_ENDS, "structured": STRUCTURED_ENDS, "claude": CLAUDE_ENDS}
    ledgers = {name: Ledger(ends) for name, ends in kinds.items()}
    ledgers |= {"batch": Ledger(OPENAI_BATCH_ENDS, 0.5), "claude_batch": Ledger(CLAUDE_BATCH_ENDS, 0.5)}
    words(*[f"word {number}" for number in range(ROWS)])
    with ChatServer() as one, ChatServer() as two, ChatServer() as three, BatchServer() as four, MessageBatchServer() as five:
        for name, server in (("chat", one), ("structured", two), ("claude", three)):
            server.reply = lambda body, ledger=ledgers[name]: served(ledger, body)
        four.answer = lambda prompt, seen: openai(ledgers["batch"], {})
        five.answer = lambda prompt, seen: anthropic(ledgers["claude_batch"], {})
        more = {"price": PRICE, "retries": 20, "max_tokens": 512}
        claude = {"provider": "anthropic", "model": "claude-test", "system": "Be brief.", "base_url": three.base_url}
        models = {
            "chat": {**json.loads(one.model()), **more},
            "structured": {**json.loads(two.model()), **more},
            "claude": {**claude, **more},
            "batch": {**json.loads(four.model()), **more},
            "claude_batch": {**json.loads(five.model()), **more},
        }
        prompt = "Say {{ text }}"
        settings: dict[str, dict[str, Any]] = {name: {"prompt": prompt} for name in models}
        settings["chat"] |= {"samples": 3}
        settings["structured"] |= {"fields": {"score": "int"}}
        steps = {
            f"by_{name}": {
                "op": "generate",
                "in": "words",
                "models": {"model": name},
                "with": given,
                "max_reject_ratio": 1,
            }
            for name, given in settings.items()
        }
        document = {"name": "demo", "models": models, "datasets": {"words": {"type": "Word", "path": "words.jsonl"}}}
        result = run_text(json.dumps({**document, "steps": steps}), registry)
    assert result.state == "succeeded", result.error
    for name, ledger in ledgers.items():
        [(spent,)] = ask(registry, f"select cost_usd from step_runs where step = 'by_{name}'")
        assert ledger.billed > ROWS / 2
        assert spent == pytest.approx(ledger.usd, rel=1e-3), name
    total = sum(step.record.cost_usd for step in result.steps)
    assert total == pytest.approx(sum(ledger.usd for ledger in ledgers.values()), rel=1e-3)
