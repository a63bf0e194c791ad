"""The page of a run on Ray, in a process of its own, opened in a browser while the run lasts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.page.walking import visiting
from tests.processes import kill_tree

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.ray

ROWS, SHORT = 160, 3
"""Rows of a call are cut into partitions of at most 128, so there are at least two."""

LONGEST_MS = 120_000
"""For Ray to start, on a busy machine."""


def pipeline(server: ChatServer) -> str:
    """A model's answers. Short ones are left out, and the model tells a story about each of the others."""
    return f"""\
name: demo
models: {{model: {server.model(price={"input": 1.0, "output": 10.0}, limits={"concurrency": ROWS})}}}
datasets: {{questions: {{path: questions.jsonl}}}}
steps:
  answers: {{op: generate, in: questions, with: {{prompt: "Answer: {{{{ question }}}}", into: answer}}}}
  long: {{op: filter, in: answers, with: {{where: length(answer) > 5}}}}
  told: {{op: generate, in: long.kept, with: {{prompt: "Tell: {{{{ answer }}}}", into: story}}}}
"""


class Gate:
    """Holds answers back: each step only gets those about its first rows.

    All requests have to be in flight at once: if there were fewer, the worker that is first could fill them with later rows.
    """

    def __init__(self) -> None:
        self.answers, self.told = 20, 0

    def admits(self, body: dict[str, Any]) -> bool:
        """Whether a request may be answered now. A server is asked first whether it samples, which is not about a row."""
        step, _, rest = str(body["messages"][-1]["content"]).partition(": ")
        if "What is number" not in rest:
            return True
        number = int(rest.rpartition(" ")[2].rstrip("?"))
        return number < (self.told if step == "Tell" else self.answers)


def answer(prompt: str, _: int) -> str:
    """Short answers to the first questions, and long ones to the others."""
    return "no" if prompt.endswith(tuple(f" {number}?" for number in range(SHORT))) else f"About {prompt}"


def test_a_run_is_watched_from_its_first_answers_to_its_end(
    workdir: Path, registry: Registry, chat_server: ChatServer, serve: Callable[[Path], str], browser: Browser
) -> None:
    questions = [json.dumps({"question": f"What is number {number}?"}) for number in range(ROWS)]
    Path("questions.jsonl").write_text("\n".join(questions))
    Path("p.yaml").write_text(pipeline(chat_server))
    gate = Gate()
    chat_server.admits, chat_server.answer = gate.admits, answer
    with visiting(browser, serve(registry.root)) as visited:
        page = visited.page
        command = [sys.executable, "-m", "engine.cli", "run", "p.yaml"]
        with Path("said.txt").open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
            try:
                # The home page, which was opened before, lists the run and then shows its progress.
                page.get_by_text(f"20 of {ROWS}").wait_for(timeout=LONGEST_MS)
                page.get_by_text("2 pending steps").wait_for()
                visited.picture("live-home")
                page.get_by_role("region", name="Runs").locator("th a").click()
                page.evaluate("window.opened = 'once'")
                steps = page.get_by_role("region", name="Steps")
                steps.get_by_text(f"20 of {ROWS}").wait_for()
                assert steps.locator(".state").all_inner_texts() == ["running", "pending", "pending"]
                assert page.locator(".graph .node.running .title").all_text_contents() == ["answers"]
                assert page.get_by_text("for reviewers").count() == 0
                visited.picture("live-first-answers")

                gate.answers = ROWS - 1
                newest = page.get_by_role("region", name="Newest rows of answers")
                newest.get_by_text("answer: About Answer: What is number").first.wait_for()
                steps.get_by_text(f"{ROWS - 1} of {ROWS}, waiting for 1 answer").wait_for()
                visited.picture("live-newest-rows")

                gate.answers = ROWS
                steps.get_by_text(f"demo/answers@1: {ROWS}").wait_for()
                gate.told = 60
                steps.get_by_text(f"{60 - SHORT} of {ROWS - SHORT}").wait_for()
                assert steps.locator(".state").all_inner_texts() == ["ran", "ran", "running"]
                assert page.locator(".graph").get_by_text(f"{SHORT} rows").count() == 1
                visited.picture("live-last-step")

                gate.told = ROWS
                page.locator(".head .state.succeeded").wait_for()
                assert process.wait(60) == 0, Path("said.txt").read_text()
                page.locator("[data-live]").wait_for(state="detached")
                assert page.get_by_role("region", name="Newest rows of told").count() == 0
                assert page.get_by_text("running for").count() == 0
                assert page.locator(".graph .node.running").count() == 0
                assert page.evaluate("window.opened") == "once"
                visited.picture("live-end")
            finally:
                if process.poll() is None:
                    kill_tree(process)
        assert visited.said == []
