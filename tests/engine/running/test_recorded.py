"""A run records its plan, why each step runs, which models it asks, and its progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.jobs.live import LiveStep, forget_live, read_live, write_live
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, run_text, words

pytestmark = pytest.mark.usefixtures("in_process")

ASKED = """
name: demo
datasets: {words: {type: Word, path: words.jsonl}}
models: {teacher: MODEL}
steps:
  said: {op: ask_once, in: words}
  loud: {op: shout, in: said, with: {mark: MARK}}
"""


def text(server: ChatServer, mark: str = '"!"') -> str:
    """The pipeline, with models on a server."""
    return ASKED.replace("MODEL", server.model(price={"input": 1, "output": 2})).replace("MARK", mark)


def test_the_calls_of_a_step_are_recorded_by_model(registry: Registry, chat_server: ChatServer) -> None:
    words("a", "b")
    run_text(text(chat_server), registry)
    run_text(text(chat_server), registry, force="said")
    [first, second] = ask(registry, "select * exclude (run_id) from model_usage order by calls desc")
    sums = "select step, variant, calls, calls_reused, tokens_in, tokens_out, cost_usd from step_runs where step = 'said' order by calls desc"
    assert [first, second] == [(step, variant, "test-model", *numbers) for step, variant, *numbers in ask(registry, sums)]
    assert (first[3], first[4]) == (2, 0)
    assert first[7] > 0
    assert (second[3], second[4]) == (0, 2)


def test_why_a_step_ran_is_recorded(registry: Registry, chat_server: ChatServer) -> None:
    words("a", "b")
    whys = "select s.step, s.outcome, s.why from step_runs s join runs r using (run_id) order by r.started_at, s.step"
    run_text(text(chat_server), registry)
    assert ask(registry, whys) == [("loud", "ran", ["it has never run"]), ("said", "ran", ["it has never run"])]
    run_text(text(chat_server, mark='"?"'), registry)
    assert ask(registry, whys)[2:] == [("loud", "ran", ["parameter mark: '!' -> '?'"]), ("said", "hit", [])]
    run_text(text(chat_server, mark='"?"'), registry, force="said")
    assert ask(registry, whys)[4:] == [("loud", "hit", []), ("said", "ran", ["--force"])]


def test_a_run_begins_with_its_graph(registry: Registry, chat_server: ChatServer) -> None:
    words("a")
    run = run_text(text(chat_server), registry)
    [first, *_] = registry.catalog.runs.read(run.run_id)
    assert first.source["graph"] == [
        {
            "step": "said",
            "op": "ask_once",
            "inputs": {"word": ["demo/words"]},
            "outputs": ["demo/said"],
            "models": {"teacher": {"model": "test-model"}},
        },
        {"step": "loud", "op": "shout", "inputs": {"word": ["demo/said"]}, "outputs": ["demo/loud"], "models": {}},
    ]
    assert registry.catalog.runs.outputs_by_step(run.run_id) == {"said": [("demo/said", 1)], "loud": [("demo/loud", 1)]}


def test_a_run_says_what_it_is_doing_until_it_has_ended(
    registry: Registry, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.running.scheduler._TURN_SECONDS", 0.0)
    words(*map(str, range(300)))
    seen = []

    def watched(folder: Path, run_id: str, steps: tuple[LiveStep, ...]) -> None:
        write_live(folder, run_id, steps)
        seen.append(read_live(folder, run_id))

    monkeypatch.setattr("engine.running.scheduler.write_live", watched)
    run = run_text(text(chat_server), registry)
    assert run.state == "succeeded"
    said = [step for each in seen if each for step in each.steps if step.step == "said"]
    assert {each.state for each in said} == {"running"}
    assert said[-1].base_key in {path.name for path in registry.receipts.iterdir()}
    assert 0 < said[-1].done <= said[-1].total == 300
    assert said[-1].why == ("it has never run",)
    assert read_live(registry.catalog.runs.folder, run.run_id) is None
    assert not list(registry.catalog.runs.folder.glob("*.live.json"))


def test_a_file_that_is_not_of_a_run_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "r1.live.json").write_text('{"at": "yesterday"}')
    (tmp_path / "r2.live.json").symlink_to("/etc/hostname")
    assert read_live(tmp_path, "r1") is None
    assert read_live(tmp_path, "r2") is None
    assert read_live(tmp_path, "r3") is None
    forget_live(tmp_path, "r1")
    assert not (tmp_path / "r1.live.json").exists()
