"""An OpenAI-compatible endpoint for benchmarks: real HTTP on loopback, in its own process, with a given latency.

It answers a prompt with the prompt's first number in \\boxed{} (or with a given function), counts requests, can fail a share
of them, and can limit the requests in flight. The benchmarks start it through `Endpoint`; `python -m benchmarks.endpoint` is
not meant to be run by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import pkgutil
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, NamedTuple

from aiohttp import web

from benchmarks.loopback import serve

_NUMBER = re.compile(r"\d+")


class Answer(NamedTuple):
    """A text with the tokens that the server reports."""

    text: str
    prompt_tokens: int = 60
    completion_tokens: int = 8


@dataclass
class Endpoint:
    """`with Endpoint(latency=0.2) as server:` serves `server.base_url`.

    Args:
        latency: seconds from a request to its answer; with `sigma`, their median.
        sigma: spread of lognormal latencies. A request's latency follows from what it asks, so the same requests take equally
            long, whatever order they are sent in.
        carries: requests in flight that are served; one more is answered 429 at once, with Retry-After.
        failing: share of requests that are answered 500.
        retry_after: seconds, sent with a 429.
        answer: `module:function` that makes an Answer, or only its text, from the request's JSON.
    """

    latency: float = 0.0
    sigma: float = 0.0
    carries: int = 0
    failing: float = 0.0
    retry_after: float = 1.0
    answer: str = "benchmarks.endpoint:first_number"
    base_url: str = field(default="", init=False)

    def __enter__(self) -> Endpoint:
        options = [f"--{name}={getattr(self, name)}" for name in ("latency", "sigma", "carries", "failing", "answer")]
        command = [sys.executable, "-m", "benchmarks.endpoint", *options, f"--retry-after={self.retry_after}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.base_url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def seen(self) -> dict[str, Any]:
        """Counts since the last call: requests, answered, throttled, failed, most_in_flight; seconds from the first request to
        the last answer, and `latencies`, the sum of all latencies in seconds."""
        with urllib.request.urlopen(f"{self.base_url}/seen") as response:
            seen: dict[str, Any] = json.load(response)
        return seen


def first_number(body: dict[str, Any]) -> str:
    """The first number of a prompt, as an answer."""
    found = _NUMBER.search(body["messages"][-1]["content"])
    return f"It is \\boxed{{{found[0] if found else 0}}}."


def latency_of(body: dict[str, Any], median: float, sigma: float) -> float:
    """Seconds until a request is answered: drawn from a lognormal distribution by what it asks."""
    asked = json.dumps([body[name] for name in ("messages", "temperature", "seed", "n") if name in body])
    draw = int.from_bytes(hashlib.sha256(asked.encode()).digest()[:6]) + 0.5
    return median * math.exp(sigma * NormalDist().inv_cdf(draw / 2**48))


class _Server:
    def __init__(
        self,
        latency: float,
        sigma: float,
        carries: int,
        failing: float,
        retry_after: float,
        answer: Callable[[dict[str, Any]], str | Answer],
    ) -> None:
        self._latency, self._sigma, self._carries, self._failing = latency, sigma, carries, failing
        self._retry_after = retry_after
        self._answer = answer
        self._random = random.Random(7)
        self._in_flight = 0
        self._forget()

    def _forget(self) -> None:
        self._counts = dict.fromkeys(("requests", "answered", "throttled", "failed", "most_in_flight"), 0)
        self._first = self._last = self._latencies = 0.0

    async def chat(self, request: web.Request) -> web.Response:
        now = time.perf_counter()
        self._first = self._first or now
        counts = self._counts
        counts["requests"] += 1
        if self._carries and self._in_flight >= self._carries:
            counts["throttled"] += 1
            error = {"error": {"message": "too many requests in flight", "code": "rate_limit_exceeded"}}
            return web.json_response(error, status=429, headers={"Retry-After": f"{self._retry_after:g}"})
        self._in_flight += 1
        counts["most_in_flight"] = max(counts["most_in_flight"], self._in_flight)
        try:
            body = await request.json()
            latency = latency_of(body, self._latency, self._sigma) if self._sigma else self._latency
            self._latencies += latency
            await asyncio.sleep(latency)
        finally:
            self._in_flight -= 1
        if self._random.random() < self._failing:
            counts["failed"] += 1
            return web.json_response({"error": {"message": "a hiccup"}}, status=500)
        counts["answered"] += 1
        self._last = time.perf_counter()
        made = self._answer(body)
        # Not isinstance(made, Answer): this module runs as `__main__`.
        made = Answer(made) if isinstance(made, str) else Answer(*made)
        message = {"role": "assistant", "content": made.text}
        choices = [{"index": index, "message": message, "finish_reason": "stop"} for index in range(body.get("n", 1))]
        usage = {"prompt_tokens": made.prompt_tokens, "completion_tokens": made.completion_tokens * len(choices)}
        return web.json_response(
            {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": choices, "usage": usage}
        )

    async def report(self, _: web.Request) -> web.Response:
        seen = {**self._counts, "seconds": self._last - self._first, "latencies": self._latencies}
        self._forget()
        return web.json_response(seen)


def _main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("latency", "sigma", "failing", "retry-after"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--carries", type=int, default=0)
    parser.add_argument("--answer", type=pkgutil.resolve_name)
    options = parser.parse_args()
    server = _Server(options.latency, options.sigma, options.carries, options.failing, options.retry_after, options.answer)
    asyncio.run(serve(web.post("/v1/chat/completions", server.chat), web.get("/v1/seen", server.report)))


if __name__ == "__main__":
    _main()
