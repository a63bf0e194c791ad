"""A small OpenAI-compatible chat server for tests: real HTTP on loopback, counted requests, scripted answers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.serving import Served

Answer = Callable[[str, int], "str | web.Response"]
"""From (last user message, how often exactly this body was asked before) to a text, or a whole HTTP response.

With `n` in the request it is called for each of the answers. A function that takes the whole request body may be given
instead, as `reply`.
"""


@dataclass
class ChatServer(Served):
    """`with ChatServer() as server:` serves `server.base_url`; `server.answer` may be replaced at any time.

    `latency` and `hold` delay answers by seconds. An answer is held back until `admits` admits it.
    """

    answer: Answer = lambda prompt, seen: f"You said: {prompt}"
    reply: Callable[[dict[str, Any]], web.Response | dict[str, Any] | None] | None = None
    latency: float = 0.0
    finish_reason: str = "stop"
    carries: int = 0
    retry_after: float = 1.0
    throttled: int = 0
    hold: Callable[[dict[str, Any]], float] = lambda body: 0.0
    admits: Callable[[dict[str, Any]], bool] = lambda body: True
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    _seen: Counter[str] = field(default_factory=Counter)
    _arrived: threading.Event = field(default_factory=threading.Event)

    @property
    def prompts(self) -> list[str]:
        """The last message of each request, in order of arrival."""
        return [request["messages"][-1]["content"] for request in self.requests]

    def wait_for_request(self, seconds: float) -> None:
        """Wait until another request arrives, with a time limit."""
        self._arrived.wait(seconds)
        self._arrived.clear()

    def model(self, **more: Any) -> str:
        """The server as a model of a pipeline, in YAML's flow style."""
        return json.dumps({"provider": "openai", "model": "test-model", "base_url": self.base_url, **more})

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/messages", self._messages)
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen = self._seen[key := json.dumps(body, sort_keys=True)]
        self._seen[key] += 1
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self._arrived.set()
        if self.carries and self.in_flight >= self.carries:
            self.throttled += 1
            return error(429, "too many requests in flight", **{"Retry-After": f"{self.retry_after:g}"})
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if wait := self.latency + self.hold(body):
                await asyncio.sleep(wait)
            while not self.admits(body):  # noqa: ASYNC110  (the test that decides is in another thread)
                await asyncio.sleep(0.01)
            whole = self.reply(body) if self.reply else None
            if whole is not None:
                return whole if isinstance(whole, web.Response) else web.json_response(whole)
            answers = [self.answer(body["messages"][-1]["content"], seen + place) for place in range(body.get("n", 1))]
        finally:
            self.in_flight -= 1
        for answer in answers:
            if isinstance(answer, web.Response):
                return answer
        return web.json_response(completion(*answers, finish_reason=self.finish_reason))

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        """Anthropic's API."""
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        whole = self.reply(body) if self.reply else None
        if whole is None:
            whole = message({"type": "text", "text": self.answer(str(body["messages"][-1]["content"]), len(self.requests) - 1)})
        return whole if isinstance(whole, web.Response) else web.json_response(whole)


def message(*blocks: dict[str, Any], stop_reason: str = "end_turn", **usage: int) -> dict[str, Any]:
    """A message, as Anthropic's API answers."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test-1",
        "content": list(blocks),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5} | usage,
    }


def completion(*texts: Any, finish_reason: str = "stop") -> dict[str, Any]:
    """A chat completion with these answers; each has five tokens, the prompt ten."""
    messages = [{"role": "assistant", "content": text} for text in texts]
    return {
        "choices": [{"message": message, "finish_reason": finish_reason} for message in messages],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5 * len(texts)},
    }


def error(status: int, message: str, **headers: str) -> web.Response:
    """An error in OpenAI's format."""
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)
