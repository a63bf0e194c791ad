"""`kill -9` at any moment loses nothing that was finished, and the result is the same as without it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import run_text
from tests.in_process import InProcess

ROWS = 256
UNSOLVED = 86
CALLS = 2 * ROWS + UNSOLVED
IN_FLIGHT = 8


def write_pipeline(workdir: Path, server: ChatServer, workers: int = 1) -> None:
    """Two steps that call the model at the same time, and two that begin with the first rows of one of them."""
    problems = [{"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(ROWS)]
    (workdir / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    document: dict[str, Any] = {
        "name": "demo",
        "models": {"teacher": json.loads(server.model(limits={"concurrency": IN_FLIGHT}))},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {
            "cot": {"op": "regenerate_cot", "in": "problems"},
            "other": {"op": "regenerate_cot", "in": "problems", "with": {"prompt": "Another way. {{ question }}"}},
            "again": {"op": "regenerate_cot", "in": "cot.unsolved", "with": {"prompt": "Once more. {{ question }}"}},
            "rows": {"op": "to_sft", "in": ["cot.solved", "cot.unsolved"]},
        },
    }
    for step in ("cot", "other", "again"):
        document["steps"][step]["resources"] = {"workers": workers}
    (workdir / "p.yaml").write_text(json.dumps(document))


def solve(prompt: str, _: int) -> str:
    """Answer two of three problems correctly."""
    number = int(prompt.partition("What is ")[2].split()[0])
    return f"It is \\boxed{{{number + (1 if number % 3 else 2)}}}."


def contents(registry: Path) -> list[tuple[Any, ...]]:
    with Registry(registry).session() as session:
        return session.ask("select name, version, version_id, content_id, rows from versions order by all").rows


def run_here(registry: Path) -> None:
    """Run the pipeline undisturbed, in this process: the contents that are compared do not depend on the executor."""
    result = run_text(Path("p.yaml").read_text(), Registry(registry), cluster=InProcess())
    assert result.state == "succeeded", result.error


def killed(process: psutil.Process, whom: str) -> None:
    """`kill -9` part of a run, or all of it."""
    parts = process.children(recursive=True)
    if whom == "worker":
        parts = [part for part in parts if _named(part, "RayHost")]
        assert parts
    elif whom == "head":
        parts = [part for part in parts if _named(part, "raylet") or _named(part, "gcs_server")]
    elif whom == "driver":
        parts = [process]
    else:
        parts = [process, *parts]
    for part in parts:
        with contextlib.suppress(psutil.NoSuchProcess):
            part.kill()


def _named(process: psutil.Process, name: str) -> bool:
    try:
        return name in process.name() or name in " ".join(process.cmdline())
    except psutil.Error:
        return False


class Run:
    """An `engine run` in another process."""

    def __init__(self, workdir: Path, server: ChatServer, rng: random.Random, cluster: Cluster | None = None) -> None:
        self._server, self._rng, self._cluster = server, rng, cluster
        self._started: list[psutil.Process] = []
        self.process = psutil.Popen(
            [sys.executable, "-m", "engine.cli", "run", "p.yaml"],
            cwd=workdir,
            env={**os.environ, **({"ENGINE_RAY_ADDRESS": cluster.address} if cluster else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill(self, whom: str, at_most: int) -> int:
        """Kill after up to this many more requests; return 0 if the run ended before."""
        wanted = len(self._server.requests) + self._rng.randrange(1, at_most)
        while len(self._server.requests) < wanted and self.process.poll() is None:
            self._server.wait_for_request(1)
        if self.process.poll() is not None:
            return 0
        self._started = self.process.children(recursive=True)
        killed(self._cluster.process if self._cluster and whom == "worker" else self.process, whom)
        return 1

    def end(self) -> tuple[int, str]:
        """Wait until the run and its workers have ended; return the exit code and the output.

        Workers may still finish partitions. Agents of Ray send nothing, and outlive a killed driver by more than 20 s.
        """
        output, _ = self.process.communicate(timeout=120)
        psutil.wait_procs([part for part in self._started if _named(part, "RayHost")], timeout=20)
        for part in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                part.kill()
        return self.process.returncode, output


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


class Cluster:
    """Two Ray nodes on this machine, until the block ends."""

    def __enter__(self) -> Cluster:
        pipe = subprocess.PIPE
        self.process = psutil.Popen([sys.executable, "-c", CLUSTER], stdin=pipe, stdout=pipe, text=True)
        self.address = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        parts = self.process.children(recursive=True)
        self.process.stdin.close()
        self.process.wait(timeout=60)
        for part in psutil.wait_procs(parts, timeout=20)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                part.kill()


def state_of(code: int, output: str) -> str:
    """The state that a run must have, from how it ended.

    A killed run records nothing; the next run records it as interrupted. If Ray's head is killed, Ray ends the driver with
    code 1, which has the same effect.
    """
    said = re.search(r"^Pipeline demo (\w+) in ", output, re.MULTILINE)
    if said is None:
        assert code in (1, -signal.SIGKILL), output
        return "interrupted"
    return {(0, "finished"): "succeeded", (1, "failed"): "failed"}[code, said[1]]


def states(registry: Path) -> list[str]:
    """How the runs ended, in order."""
    with Registry(registry).session() as session:
        return [state for (state,) in session.ask("select state from runs order by started_at").rows]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 10))])
def test_a_killed_run_repeats_no_finished_call(workdir: Path, chat_server: ChatServer, seed: int) -> None:
    """Each of the first runs loses a worker and then something worse; the last one loses only a worker, and survives."""
    chat_server.answer = solve
    write_pipeline(workdir, chat_server)
    run_here(workdir / "calm")
    assert len(chat_server.requests) == CALLS
    chat_server.requests.clear()
    chat_server.latency = 0.05

    rng = random.Random(seed)
    killed_first = [["worker", whom] for whom in rng.choices(["driver", "head", "everything"], k=1 if seed == 1 else 2)]
    ended: list[str] = []
    kills, most = 0, CALLS // 8
    for parts in (*killed_first, ["worker"]):
        before = len(chat_server.requests)
        run = Run(workdir, chat_server, rng)
        alive = [run.kill(part, most) for part in parts]
        code, output = run.end()
        if "succeeded" in ended:
            assert (sum(alive), len(chat_server.requests) - before) == (0, 0), "everything was finished, so nothing was sent"
        if not all(alive):
            # Workers outlive the driver or the head by a few seconds, and finish their partitions.
            assert CALLS - before < len(parts) * most, "with so much left to do, a run does not end before it is killed"
            assert code == 0, output
        elif parts[-1] == "head":
            assert code in (0, 1), output  # it may finish without the head
        else:
            assert code == (0 if parts[-1] == "worker" else -signal.SIGKILL), output
        ended.append(state_of(code, output))
        kills += sum(alive)
    assert CALLS <= len(chat_server.requests) <= CALLS + kills * IN_FLIGHT
    assert contents(workdir / ".engine") == contents(workdir / "calm")
    assert states(workdir / ".engine") == ended


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_run_on_two_nodes_repeats_no_finished_call(workdir: Path, chat_server: ChatServer, seed: int) -> None:
    """Workers on both nodes share the limits and the journal; one of them is killed, then the driver."""
    chat_server.answer = solve
    write_pipeline(workdir, chat_server, workers=2)
    run_here(workdir / "calm")
    chat_server.requests.clear()
    chat_server.latency = 0.05

    rng = random.Random(seed)
    with Cluster() as cluster:
        run = Run(workdir, chat_server, rng, cluster)
        kills = run.kill("worker", CALLS // 6) + run.kill("driver", CALLS // 6)
        code, output = run.end()
        assert code == -signal.SIGKILL, output
        last = Run(workdir, chat_server, rng, cluster)
        kills += last.kill("worker", CALLS // 8)
        code, output = last.end()
    assert code == 0, output
    assert kills == 3
    assert CALLS <= len(chat_server.requests) <= CALLS + kills * IN_FLIGHT
    assert contents(workdir / ".engine") == contents(workdir / "calm")
    assert states(workdir / ".engine") == ["interrupted", "succeeded"]


@pytest.mark.timeout(400)
def test_ctrl_c_waits_for_paid_calls(workdir: Path, chat_server: ChatServer) -> None:
    chat_server.answer, chat_server.latency = solve, 1.0
    write_pipeline(workdir, chat_server)
    run = Run(workdir, chat_server, random.Random(0))
    while chat_server.in_flight < IN_FLIGHT and run.process.poll() is None:
        chat_server.wait_for_request(1)
    run.process.send_signal(signal.SIGINT)
    code, output = run.end()
    assert code == 130, output
    assert "waiting for those in flight" in output
    sent = len(chat_server.requests)
    assert sent < CALLS
    chat_server.latency = 0.0
    run_here(workdir / ".engine")
    assert len(chat_server.requests) == CALLS
    with Registry(workdir / ".engine").session() as session:
        query = (
            "select run_id, sum(calls), list(distinct outcome) from step_runs where op = 'regenerate_cot' group by 1 order by 1"
        )
        [(_, first, outcomes), (_, second, _)] = session.ask(query).rows
    assert (first, second, outcomes) == (sent, CALLS - sent, ["stopped"])
