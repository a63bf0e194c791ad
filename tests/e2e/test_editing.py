"""An operator of another package is found, and editing its code reruns its step, without paying again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.chat_server import ChatServer
from tests.conftest import SITE, Cli

OPERATOR = '''\
"""A user's own package."""

from collections.abc import AsyncIterator

from engine.operator import Context, Record, operator


class Note(Record):
    text: str


def tidy(text: str) -> str:
    """Cuts."""
    return text.strip()


@operator(outputs=Note, models=["teacher"])
async def take_note(note: Note, ctx: Context) -> AsyncIterator[Note]:
    """Asks and tidies."""
    answer = await ctx.models["teacher"].chat(PROMPT + note.text)
    yield Note(text=tidy(answer.text))


PROMPT = "Note: "
'''


def test_editing_code_reruns_the_step_and_asks_only_what_is_new(workdir: Path, engine: Cli, chat_server: ChatServer) -> None:
    site = workdir / "site"
    info = site / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[engine.operators]\nmine = my_notes\n")
    module = site / "my_notes.py"
    env = {"PYTHONPATH": os.pathsep.join([str(site), SITE])}
    (workdir / "notes.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (workdir / "p.yaml").write_text(
        f"{{name: demo, models: {{teacher: {chat_server.model()}}}, datasets: {{notes: {{type: Note, path: notes.jsonl}}}},"
        " steps: {noted: {op: take_note, in: notes}}}"
    )

    def run(text: str) -> tuple[str, int]:
        module.write_text(text)
        before = len(chat_server.requests)
        done = engine("run", "p.yaml", "--json", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["steps"][0]["outcome"], len(chat_server.requests) - before

    assert run(OPERATOR) == ("ran", 2)
    assert run(OPERATOR.replace('"""Cuts."""', "# A comment.")) == ("hit", 0)
    shouted = OPERATOR.replace("text.strip()", "text.strip().upper()")
    module.write_text(shouted)
    why = engine("plan", "p.yaml", "--why", env=env).stdout
    assert "-    return text.strip()" in why
    assert "+    return text.strip().upper()" in why
    assert run(shouted) == ("ran", 0)
    assert run(shouted.replace('"Note: "', '"Write: "')) == ("ran", 2)
