"""Two runs at the same time send no more to an endpoint than its limits allow a single run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import ChatServer
from tests.processes import kill_tree

ROWS, IN_FLIGHT = 400, 8
ALONE_SECONDS, LATENCY_SECONDS = 2.0, 0.05
"""The first run is answered so slowly that it still has most of its rows to go when the second one starts."""

HAND_OVER = 200
"""After so many requests of the second run, at most 4 at a time, the first one has counted it: 200 / 4 x 50 ms = 2.5 s."""


class Watch:
    """Counts what each run has in flight; the runs differ in the numbers that they ask about."""

    def __init__(self) -> None:
        self.in_flight = [0, 0]
        self.sent = [0, 0]
        self.seen: list[tuple[int, int, int]] = []
        """Requests in flight by run at each arrival, and the requests that the less advanced run had sent."""

    def arrived(self, body: dict[str, Any]) -> float:
        """Count a request; returns how long it takes."""
        run = number(body["messages"][-1]["content"]) // ROWS
        self.in_flight[run] += 1
        self.sent[run] += 1
        self.seen.append((*self.in_flight, min(self.sent)))
        return LATENCY_SECONDS if all(self.sent) else ALONE_SECONDS

    def answer(self, prompt: str, _: int) -> str:
        """Count an answer."""
        self.in_flight[number(prompt) // ROWS] -= 1
        return f"It is \\boxed{{{number(prompt)}}}."


def number(prompt: str) -> int:
    return int(prompt.partition("What is ")[2].split("?")[0])


def started(folder: Path, server: ChatServer, first: int) -> subprocess.Popen[str]:
    """Start a run over problems of its own, in a folder and with a registry of its own."""
    folder.mkdir()
    problems = [{"question": f"What is {each}?", "answer": str(each)} for each in range(first, first + ROWS)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    document = {
        "name": "demo",
        "models": {"teacher": json.loads(server.model(limits={"concurrency": IN_FLIGHT}))},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {"cot": {"op": "regenerate_cot", "in": "problems"}},
    }
    (folder / "p.yaml").write_text(json.dumps(document))
    return subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "run", "p.yaml", "--json"],
        cwd=folder,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(240)
def test_two_runs_at_once_divide_the_requests_in_flight(workdir: Path, chat_server: ChatServer) -> None:
    watch = Watch()
    chat_server.hold, chat_server.answer = watch.arrived, watch.answer
    with contextlib.ExitStack() as ended:
        runs = []
        for place in (0, 1):
            runs.append(started(workdir / str(place), chat_server, place * ROWS))
            ended.callback(lambda run=runs[-1]: run.poll() is None and kill_tree(run))
        for run in runs:
            out, err = run.communicate()
            assert run.returncode == 0, out + err
            [step] = json.loads(out)["steps"]
            assert step["rows_out"] == ROWS
    assert watch.sent == [ROWS, ROWS], "each request once"
    # The first run may keep its requests in flight until it has noticed the other one.
    assert max(first + second for first, second, _ in watch.seen) <= IN_FLIGHT + IN_FLIGHT // 2
    later = [(first, second) for first, second, advanced in watch.seen if advanced >= HAND_OVER]
    assert max(first + second for first, second in later) <= IN_FLIGHT
    assert max(min(both) for both in later) == IN_FLIGHT // 2, "both were busy, with equal shares"
