"""`engine preview` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from engine.llm.journal.answers import Journal
from registry import Registry
from tests.chat_server import ChatServer, error
from tests.conftest import Cli
from tests.engine.run_pipelines import words


def write(chat_server: ChatServer, steps: str = "said: {op: ask_once, in: words}", **model: object) -> None:
    """A pipeline over 40 words."""
    words(*[f"w{number}" for number in range(40)])
    Path("p.yaml").write_text(
        f"{{name: demo, models: {{teacher: {chat_server.model(**model)}}}, "
        f"datasets: {{words: {{type: Word, path: words.jsonl}}}}, steps: {{{steps}}}}}"
    )


def test_rows_forecast_and_then_the_plan(engine: Cli, chat_server: ChatServer) -> None:
    write(chat_server, price={"input": 1.0, "output": 2.0})
    shown = engine("preview", "p.yaml", "-n", "6")
    assert shown.returncode == 0, shown.stderr
    assert "Say w" in shown.stdout
    assert "You said: Say w" in shown.stdout
    assert "6 of 40 rows of words" in shown.stdout
    assert "preview of 6 rows" in shown.stdout
    planned = engine("plan", "p.yaml")
    assert "preview of 6 rows" in planned.stdout
    [_, step] = json.loads(engine("plan", "p.yaml", "--json").stdout)
    assert step["forecast"]["calls"] == {"expected": 34.0, "low": 34.0, "high": 34.0}
    document = json.loads(engine("preview", "p.yaml", "-n", "6", "--json").stdout)
    assert (document["steps"][0]["calls"], document["steps"][0]["calls_reused"]) == (0, 6)
    assert len(document["steps"][0]["rows"]) == 6
    assert len(chat_server.requests) == 6


def test_ten_rows_are_asked_about_at_once(engine: Cli, chat_server: ChatServer) -> None:
    write(chat_server)
    chat_server.latency = 2.0
    assert "You said" in engine("preview", "p.yaml", "-n", "10").stdout
    assert chat_server.most_in_flight == len(chat_server.requests) == 10


def test_an_unknown_step_and_a_refusing_server_are_reported(engine: Cli, chat_server: ChatServer) -> None:
    write(chat_server)
    unknown = engine("preview", "p.yaml", "--step", "sayd")
    assert (unknown.returncode, "said" in unknown.stderr) == (2, True)
    assert engine("preview", "p.yaml", "-n", "0").returncode == 2
    chat_server.reply = lambda body: error(401, "no such key")
    failed = engine("preview", "p.yaml", "-n", "2")
    assert failed.returncode == 1
    assert "no such key" in failed.stdout


def test_after_ctrl_c_the_answers_are_kept(workdir: Path, chat_server: ChatServer) -> None:
    write(chat_server, "said: {op: ask, in: words}", limits={"concurrency": 4})
    chat_server.latency = 0.5
    command = [sys.executable, "-m", "engine.cli", "preview", "p.yaml", "-n", "20"]
    process = subprocess.Popen(command, cwd=workdir, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(chat_server.requests) < 6:
        chat_server.wait_for_request(30)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "was interrupted" in out
    journal = Journal(Registry(workdir / ".engine").journal)
    kept = journal.count()
    journal.close()
    assert kept == len(chat_server.requests) < 40
