"""A small OpenAI-compatible chat server for tests: real HTTP on loopback, counted requests, scripted answers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[str, int], "str | web.Response"]
"""From (last user message, how often exactly this body was asked before) to a text, or a whole HTTP response."""


@dataclass
class ChatServer:
    """`with ChatServer() as server:` serves `server.base_url`; `server.answer` may be replaced at any time."""

    answer: Answer = lambda prompt, seen: f"You said: {prompt}"
    latency: float = 0.0
    finish_reason: str = "stop"
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    def __enter__(self) -> ChatServer:
        self._arrived = threading.Event()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def prompts(self) -> list[str]:
        """The last message of each request, in order of arrival."""
        return [request["messages"][-1]["content"] for request in self.requests]

    def wait_for_request(self, seconds: float) -> None:
        """Wait until another request arrives, at most so long."""
        self._arrived.wait(seconds)
        self._arrived.clear()

    def model(self, **more: Any) -> str:
        """The server as a model of a pipeline, in YAML's flow style."""
        return json.dumps({"provider": "openai", "model": "test-model", "base_url": self.base_url, **more})

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main(ready))
        self._loop.close()

    async def _main(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen = sum(1 for earlier in self.requests if earlier == body)
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self._arrived.set()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            answer = self.answer(body["messages"][-1]["content"], seen)
        finally:
            self.in_flight -= 1
        if isinstance(answer, web.Response):
            return answer
        return web.json_response(
            {
                "choices": [{"message": {"role": "assistant", "content": answer}, "finish_reason": self.finish_reason}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5},
            }
        )


def error(status: int, message: str, **headers: str) -> web.Response:
    """An error as OpenAI words it."""
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)
