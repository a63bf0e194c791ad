"""`kill -9` at any moment costs nothing that was finished, and the end is the same as without it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.conftest import Cli

ROWS = 96
IN_FLIGHT = 8


def write_pipeline(workdir: Path, server: ChatServer) -> None:
    problems = [{"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(ROWS)]
    (workdir / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    document = {
        "name": "demo",
        "models": {"teacher": json.loads(server.model(limits={"concurrency": IN_FLIGHT}))},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {
            "cot": {"op": "regenerate_cot", "in": "problems"},
            "rows": {"op": "to_sft", "in": ["cot.solved", "cot.unsolved"]},
        },
    }
    (workdir / "p.yaml").write_text(json.dumps(document))


def solve(prompt: str, _: int) -> str:
    """Right for two of three problems."""
    number = int(prompt.partition("What is ")[2].split()[0])
    return f"It is \\boxed{{{number + (1 if number % 3 else 2)}}}."


def contents(registry: Path) -> list[tuple[Any, ...]]:
    with Registry(registry).session() as session:
        return session.ask("select name, version, version_id, content_id, rows from versions order by all").rows


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """The driver first, then whatever it had started: Ray's head, its workers."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=10)


def killed_after(requests: int, server: ChatServer, workdir: Path) -> int:
    """Start a run and kill it once the server has seen so many more requests; returns how many there were."""
    before = len(server.requests)
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "run", "p.yaml"],
        cwd=workdir,
        env=os.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(server.requests) - before < requests:
        if process.poll() is not None:
            return len(server.requests) - before
        server.wait_for_request(1)
    kill_tree(process)
    return len(server.requests) - before


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))])
def test_a_killed_run_repeats_no_finished_call(workdir: Path, engine: Cli, chat_server: ChatServer, seed: int) -> None:
    chat_server.answer = solve
    chat_server.latency = 0.05
    write_pipeline(workdir, chat_server)
    calm = engine("--registry", "calm", "run", "p.yaml")
    assert calm.returncode == 0, calm.stderr
    assert len(chat_server.requests) == ROWS
    chat_server.requests.clear()

    kills = 2
    for _ in range(kills):
        killed_after(random.Random(seed).randrange(1, ROWS // 2), chat_server, workdir)
    last = engine("run", "p.yaml")
    assert last.returncode == 0, last.stderr
    assert ROWS <= len(chat_server.requests) <= ROWS + kills * IN_FLIGHT
    assert contents(workdir / ".engine") == contents(workdir / "calm")
    with Registry(workdir / ".engine").session() as session:
        states = [state for (state,) in session.ask("select state from runs order by started_at").rows]
        assert states == ["interrupted"] * kills + ["succeeded"]
