"""Others rely on `latest`, so a trial with other parameters makes versions without moving it."""

from __future__ import annotations

import json
from typing import Any

import pytest

import engine.running.run as running
from registry import Registry
from tests.engine.run_pipelines import ask, run_text, words

PIPELINE = """
    name: demo
    params: {limit: 3}
    datasets: {words: {type: Word, path: words.jsonl, limit: "${params.limit}"}}
    steps: {copy: {op: shout, in: words}}
"""


@pytest.fixture(autouse=True)
def _three_words(registry: Registry, in_process: None) -> None:
    words("a", "b", "c")


def run(registry: Registry, *settings: str, pipeline: str = PIPELINE) -> bool:
    """Run it; return whether `latest` moved."""
    return run_text(pipeline, registry, settings=list(settings)).moves_latest


def latest(registry: Registry) -> int:
    [(rows,)] = ask(registry, "select rows from datasets where name = 'demo/copy'")
    return int(rows)


def test_a_trial_makes_versions_without_moving_latest(registry: Registry) -> None:
    assert run(registry)
    assert not run(registry, "limit=1")
    assert latest(registry) == 3
    assert ask(registry, "select version, rows from versions where name = 'demo/copy' order by 1") == [(1, 3), (2, 1)]
    assert ask(registry, 'select count(*) from "demo/copy@2"') == [(1,)]


def test_latest_moves_with_the_files_own_parameters_however_they_are_set(registry: Registry) -> None:
    assert run(registry)
    assert not run(registry, "limit=1")
    words("x", "y", "z")
    assert run(registry, "limit=3")
    assert ask(registry, 'select text from "demo/copy" order by row') == [("X!",), ("Y!",), ("Z!",)]
    assert run(registry, pipeline=PIPELINE.replace("limit: 3", "limit: 2"))
    assert latest(registry) == 2


def test_the_first_run_and_runs_with_the_same_parameters_move_latest(registry: Registry) -> None:
    """Pipelines whose files are given with --set have no useful parameters of their own."""
    assert run(registry, "limit=2")
    words("p", "q", "r")
    assert run(registry, "limit=2")
    assert ask(registry, 'select text from "demo/copy" order by row') == [("P!",), ("Q!",)]
    assert not run(registry, "limit=1")
    assert run(registry)
    assert not run(registry, "limit=2")


def test_a_trial_does_not_move_what_another_run_moved_meanwhile(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    run_steps = running.run_steps

    def beside_another_run(*given: Any) -> Any:
        monkeypatch.setattr(running, "run_steps", run_steps)
        assert run(registry)
        return run_steps(*given)

    monkeypatch.setattr(running, "run_steps", beside_another_run)
    assert not run(registry, "limit=1")
    assert latest(registry) == 3


def test_a_runs_parameters_and_a_versions_files_can_be_queried(registry: Registry) -> None:
    run(registry, "limit=2")
    assert [json.loads(params) for (params,) in ask(registry, "select params from runs")] == [{"limit": 2}]
    assert ask(registry, "select file, params->>'limit' from runs") == [("p.yaml", "2")]
    assert ask(registry, "select name, files from versions order by name") == [
        ("demo/copy", None),
        ("demo/words", ["words.jsonl"]),
    ]
    views = "select params, file from runs", "select name, files from versions order by name"
    before = [ask(registry, view) for view in views]
    registry.catalog.rebuild()
    assert [ask(registry, view) for view in views] == before
