"""A run on a full disk fails in words, keeps what it had, and goes on when there is room."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.running import ask, run_text, words
from tests.registry.test_disk_full import KIB, fill, small_disk

__all__ = ["small_disk"]

pytestmark = pytest.mark.usefixtures("ray_session", "workdir")

ROWS = 60


def noise(size: int) -> str:
    """Text that cannot be packed."""
    return "".join(random.choices(string.ascii_letters, k=size))


@pytest.mark.parametrize("free", [200, pytest.param(700, marks=pytest.mark.soak)])
def test_a_run_goes_on_when_there_is_room_again(small_disk: Path, chat_server: ChatServer, free: int) -> None:
    registry = Registry(small_disk / "registry")
    chat_server.answer = lambda prompt, seen: noise(10 * KIB)
    words(*[f"w{number}" for number in range(ROWS)])
    head = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, models: {teacher: {provider: openai, model: m, "
    text = f"{head}base_url: '{chat_server.base_url}'}}}}, steps: {{first: {{op: shout, in: words}}, said: {{op: ask_once, in: first}}}}}}"
    assert run_text(text, registry, select="first").state == "succeeded"
    ballast = fill(small_disk, free * KIB)
    try:
        said = str(run_text(text, registry).error)
    except OSError as error:  # not even the failure of the step could be noted
        said = str(error)
    assert any(words in said for words in ("no room left", "disk is full", "No space left on device")), said
    assert ask(registry, 'select count(*) from "demo/first"') == [(ROWS,)]
    sent = len(chat_server.requests)
    ballast.unlink()
    assert run_text(text, registry).state == "succeeded"
    assert ask(registry, 'select count(*), min(length(text)) from "demo/said"') == [(ROWS, 10 * KIB)]
    # What was journalled before the disk was full is not asked again.
    assert len(chat_server.requests) < sent + ROWS
