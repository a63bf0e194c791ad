"""How fast are model calls, and what do they cost? `python -m benchmarks.clients [--cpu 600000]`

Prints, for a server with a fixed latency on this machine, the calls per second of bare aiohttp, of the `openai` package's
AsyncClient (with its default transport, and over aiohttp) and of `engine run` with `regenerate_cot`, all with the same
number of requests in flight; and their share of the ideal (N x latency / concurrency) and of bare aiohttp. For `engine run`
only the calls count: from the first request that the server sees to its last answer.

With `--cpu CALLS`, it prints instead the CPU per call in milliseconds, against a server that answers at once, with 64 requests in flight:
for bare aiohttp, and for `engine run` by process, without the cost of starting (a run with as many rows as are in flight). Starting varies
by a second or two of CPU, so use at least 20,000 calls; at 2 ms a call, 600,000 calls take 20 minutes of CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.endpoint import Endpoint
from benchmarks.goals import exit_with
from benchmarks.runs import engine_run

Ask = Callable[[str], Awaitable[None]]

CPU_IN_FLIGHT = 64
MOST_BARE = 50_000
"""Requests that are enough to measure the bare client's cost."""
GOALS = {"200 ms, 64 in flight": ("ideal", 0.9), "50 ms, 64 in flight": ("bare aiohttp", 0.55)}


def prompt(number: int) -> str:
    """Roughly the text that `regenerate_cot` sends."""
    return f"Solve the following problem. Think step by step.\n\nProblem: What is {number}?"


async def drive(ask: Ask, requests: int, concurrency: int) -> float:
    """Seconds for a number of requests at a given concurrency."""
    numbers = iter(range(requests))

    async def worker() -> None:
        for number in numbers:
            await ask(prompt(number))

    started = time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(concurrency)])
    return time.perf_counter() - started


async def bare_aiohttp(server: Endpoint, requests: int, concurrency: int) -> float:
    """A POST and its JSON, nothing else."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def ask(text: str) -> None:
            body = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0.7, "max_tokens": 512}
            async with session.post(f"{server.base_url}/chat/completions", json=body) as response:
                assert (await response.json())["choices"]

        return await drive(ask, requests, concurrency)


async def openai_client(server: Endpoint, requests: int, concurrency: int, *, over_aiohttp: bool) -> float:
    """Seconds for requests through the official `openai` client."""
    import openai

    transport = openai.DefaultAioHttpClient() if over_aiohttp else None
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none", http_client=transport) as client:

        async def ask(text: str) -> None:
            messages: Any = [{"role": "user", "content": text}]
            done = await client.chat.completions.create(model="m", messages=messages, temperature=0.7, max_tokens=512)
            assert done.choices

        return await drive(ask, requests, concurrency)


def measure(latency: float, concurrency: int, requests: int, *, peers: bool) -> dict[str, tuple[float, int]]:
    """(calls per second, most in flight) by client, each with its own new server."""
    found: dict[str, tuple[float, int]] = {}
    clients: dict[str, Any] = {"bare aiohttp": bare_aiohttp}
    if peers:
        clients["openai over aiohttp"] = partial(openai_client, over_aiohttp=True)
        clients["openai"] = partial(openai_client, over_aiohttp=False)
    for name, client in clients.items():
        with Endpoint(latency=latency) as server:
            seconds = asyncio.run(client(server, requests, concurrency))
            found[name] = (requests / seconds, server.seen()["most_in_flight"])
    with Endpoint(latency=latency) as server:
        seen = engine_run(server, requests, limits={"concurrency": concurrency})
    found["engine run"] = (requests / seen["seconds"], seen["most_in_flight"])
    return found


async def cpu_of_bare_aiohttp(server: Endpoint, requests: int) -> float:
    """Seconds of this process's CPU that the requests take."""
    started = time.process_time()
    await bare_aiohttp(server, requests, CPU_IN_FLIGHT)
    return time.process_time() - started


def cost_of_calls(calls: int) -> Table:
    """Measure the CPU per call, in milliseconds; returns the table to print."""
    with Endpoint() as server:
        bare = asyncio.run(cpu_of_bare_aiohttp(server, min(calls, MOST_BARE))) * 1000 / min(calls, MOST_BARE)
    used = []
    for requests in (CPU_IN_FLIGHT, calls + CPU_IN_FLIGHT):
        with Endpoint() as server:
            seen = engine_run(server, requests, with_cpu=True, limits={"concurrency": CPU_IN_FLIGHT})
        assert seen["answered"] == seen["requests"] == requests, seen
        used.append(seen["cpu"])
    costs = {
        f"engine run: {who}": (after - before) * 1000 / calls
        for who, before, after in zip(("driver", "workers", "Ray's own"), *used, strict=True)
    }
    whole = sum(costs.values())
    costs = {"bare aiohttp": bare, **costs, "engine run: all": whole, "engine run: beyond bare aiohttp": whole - bare}
    table = Table("CPU of", "ms a call", "of bare aiohttp", title=f"{calls:,} calls", title_justify="left")
    for what, cost in costs.items():
        table.add_row(what, f"{cost:.3f}", f"{cost / bare:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--only-engine", action="store_true", help="leave the openai client out")
    parser.add_argument("--cpu", type=int, metavar="CALLS", help="print the CPU of so many calls instead")
    options = parser.parse_args()
    console, missed = Console(), []
    if options.cpu:
        console.print(cost_of_calls(options.cpu))
        return
    for latency, concurrency in ((0.2, 64), (0.05, 64), (0.2, 256)):
        title = f"{latency * 1000:.0f} ms, {concurrency} in flight"
        found = measure(latency, concurrency, options.requests, peers=not options.only_engine)
        ideal, bare = concurrency / latency, found["bare aiohttp"][0]
        table = Table("client", "calls/s", "of ideal", "of bare aiohttp", "most in flight", title=title, title_justify="left")
        for name, (rate, in_flight) in found.items():
            table.add_row(name, f"{rate:.0f}", f"{rate / ideal:.2f}", f"{rate / bare:.2f}", str(in_flight))
        console.print(table)
        rate, in_flight = found["engine run"]
        against, goal = GOALS.get(title, ("ideal", 0.0))
        reached = rate / {"ideal": ideal, "bare aiohttp": bare}[against]
        if reached < goal or in_flight != concurrency:
            missed.append(f"{title}: {reached:.2f} of {against} (goal {goal}), {in_flight} in flight")
    exit_with(missed, console)


if __name__ == "__main__":
    main()
