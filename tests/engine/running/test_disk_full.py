"""A run on a full disk fails with a clear error, keeps what it had, and continues when there is room."""

from __future__ import annotations

import random
import string
import subprocess
import sys
from pathlib import Path

import pytest

from engine.llm.journal.integrity import damages
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, run_text, words
from tests.registry.storage.test_disk_full import KIB, fill, small_disk

__all__ = ["small_disk"]

pytestmark = pytest.mark.usefixtures("workdir")

ROWS = 60


def noise(size: int) -> str:
    """Text that cannot be compressed."""
    return "".join(random.choices(string.ascii_letters, k=size))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("free", [200, pytest.param(700, marks=pytest.mark.soak)])
def test_a_run_continues_when_there_is_room_again(small_disk: Path, chat_server: ChatServer, free: int) -> None:
    registry = Registry(small_disk / "registry")
    chat_server.answer = lambda prompt, seen: noise(10 * KIB)
    words(*[f"w{number}" for number in range(ROWS)])
    head = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, models: {teacher: {provider: openai, model: m, "
    text = f"{head}base_url: '{chat_server.base_url}'}}}}, steps: {{first: {{op: shout, in: words}}, said: {{op: ask_once, in: first}}}}}}"
    assert run_text(text, registry, select="first").state == "succeeded"
    ballast = fill(small_disk, free * KIB)
    try:
        message = str(run_text(text, registry).error)
    except OSError as error:  # not even the failure of the step could be noted
        message = str(error)
    assert any(words in message for words in ("no room left for answers", "disk is full", "no space left in")), message
    assert ask(registry, 'select count(*) from "demo/first"') == [(ROWS,)]
    ballast.unlink()
    assert run_text(text, registry).state == "succeeded"
    assert ask(registry, 'select count(*), min(length(text)) from "demo/said"') == [(ROWS, 10 * KIB)]
    # No request is sent if there is no room for its answer, so no answer is requested twice.
    assert len(chat_server.requests) == ROWS


@pytest.mark.usefixtures("in_process")
def test_answers_in_flight_when_the_disk_fills_up_are_kept(small_disk: Path, chat_server: ChatServer) -> None:
    """The disk fills up to the last byte during 16 requests; nothing in the journal is reported as damaged."""
    registry = Registry(small_disk / "registry")
    ballast: list[Path] = []

    def answer(prompt: str, seen: int) -> str:
        if len(chat_server.requests) >= 20 and not ballast:
            ballast.append(fill(small_disk, 0))
        return noise(10 * KIB)

    chat_server.answer, chat_server.latency = answer, 0.02
    words(*[f"w{number}" for number in range(ROWS)])
    model = chat_server.model(limits={"concurrency": 16})
    text = f"{{name: demo, datasets: {{words: {{type: Word, path: words.jsonl}}}}, models: {{teacher: {model}}}, steps: {{said: {{op: ask_once, in: words}}}}}}"
    try:
        message = str(run_text(text, registry).error)
    except OSError as error:  # not even the failure of the step could be noted
        message = str(error)
    assert any(words in message for words in ("no room left for answers", "disk is full", "no space left in")), message
    assert len(chat_server.requests) < ROWS
    assert list(damages(registry.journal / "answers.sqlite", deep=True)) == []
    ballast[0].unlink()
    assert run_text(text, registry).state == "succeeded"
    assert len(chat_server.requests) == ROWS


def test_a_journal_on_a_full_disk_is_not_reported_as_damaged(small_disk: Path) -> None:
    folder = small_disk / "journal"
    subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(folder)], check=False)
    (folder / "answers.sqlite-shm").unlink()  # as after a restart of the machine: SQLite makes a new one, and needs room for it
    ballast = fill(small_disk, 0)
    [found] = damages(folder / "answers.sqlite", deep=True)
    assert found.what.startswith("cannot be checked")
    assert "room" in found.advice
    ballast.unlink()
    assert list(damages(folder / "answers.sqlite", deep=True)) == []


WRITE_AND_DIE = """
import asyncio, os, sys
from pathlib import Path
from engine.llm.types.completions import Completion
from engine.llm.journal.answers import Journal
asyncio.run(Journal(Path(sys.argv[1])).put("k", Completion(text="x")))
os._exit(9)
"""
