"""Steps that use existing outputs are recorded together, in order, before the next commit of the run and before its end."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import pytest

from engine.running.scheduler import Scheduler
from registry import Hit, Registry
from registry.catalog.write_ahead import Intent, IntentFile
from tests.engine.run_pipelines import ask, outcomes, run_text, words

pytestmark = pytest.mark.usefixtures("in_process")

HEAD = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {"
THREE = HEAD + "a: {op: shout, in: words}, b: {op: shout, in: a}, c: {op: shout, in: b}}}"
MIXED = HEAD + "a: {op: shout, in: words}, b: {op: shout, in: a}, new: {op: %s}, c: {op: shout, in: b}}}"
NEW = "shout, in: b, with: {mark: '?'}"
BAD = "by_length, in: bad, max_reject_ratio: 0"


@pytest.fixture
def intents(monkeypatch: pytest.MonkeyPatch) -> list[Intent]:
    """The changes to a registry, each of which has an intent."""
    found: list[Intent] = []
    write = IntentFile.write

    def watched(file: IntentFile, intent: Intent) -> None:
        found.append(intent)
        write(file, intent)

    monkeypatch.setattr(IntentFile, "write", watched)
    return found


def steps_of(registry: Registry, run_id: str) -> list[tuple[str, str]]:
    """The steps in a run's journal, with their outcomes."""
    return [(event.step.step, event.step.outcome) for event in registry.catalog.runs.read(run_id) if event.step]


def test_hits_that_follow_each_other_are_one_commit(registry: Registry, intents: list[Intent]) -> None:
    words("a", "b")
    run_text(THREE, registry)
    intents.clear()
    again = run_text(THREE, registry)
    assert outcomes(again) == dict.fromkeys("abc", "hit")
    assert intents == [Intent(runs=(again.run_id,))] * 3, "the beginning, the hits, the end"
    assert steps_of(registry, again.run_id) == [("a", "hit"), ("b", "hit"), ("c", "hit")]
    recorded = ask(
        registry, f"select step, outcome, rows_in, rows_out from step_runs where run_id = '{again.run_id}' order by started_at"
    )
    assert recorded == [(name, "hit", 2, 2) for name in "abc"]


def test_their_lines_name_the_versions_that_they_used(registry: Registry) -> None:
    words("a")
    run_text(THREE, registry)
    again = run_text(THREE, registry)
    for hit in again.steps:
        [made] = hit.outputs
        found = registry.catalog.runs.path(again.run_id).read_text()
        assert f'"name":"{made.name}"' in found


def test_they_are_recorded_before_what_is_committed_next(registry: Registry) -> None:
    words("a")
    run_text(THREE, registry)
    mixed = run_text(MIXED % NEW, registry)
    assert mixed.state == "succeeded"
    lines = steps_of(registry, mixed.run_id)
    assert lines.index(("b", "hit")) < lines.index(("new", "ran"))
    assert [line for line in lines if line[1] == "hit"] == [("a", "hit"), ("b", "hit"), ("c", "hit")]


def test_a_run_that_fails_keeps_them(registry: Registry) -> None:
    words("a")
    run_text(THREE, registry)
    words("bad", file="bad.jsonl")
    text = (MIXED % BAD).replace("words.jsonl}", "words.jsonl}, bad: {type: Word, path: bad.jsonl}")
    failed = run_text(text, registry)
    assert failed.state == "failed"
    assert {*steps_of(registry, failed.run_id)} == {("a", "hit"), ("b", "hit"), ("c", "hit"), ("new", "failed")}


@pytest.mark.parametrize(("error", "state"), [(KeyboardInterrupt(), "interrupted"), (AssertionError("a bug"), "failed")])
def test_a_run_that_is_interrupted_or_breaks_keeps_them(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str
) -> None:
    words("a")
    run_text(THREE, registry)

    def stop(scheduler: Scheduler) -> None:
        raise error

    monkeypatch.setattr(Scheduler, "_record_hits", stop)
    if isinstance(error, KeyboardInterrupt):
        assert run_text(THREE, registry).state == state
    else:
        with pytest.raises(AssertionError, match="a bug"):
            run_text(THREE, registry)
    [(run_id, ended)] = ask(registry, "select run_id, state from runs order by started_at desc limit 1")
    assert ended == state
    assert steps_of(registry, run_id) == [("a", "hit"), ("b", "hit"), ("c", "hit")]


def test_a_run_that_cannot_record_them_fails(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    words("a")
    run_text(THREE, registry)

    def full(run_id: str, hits: Sequence[Hit]) -> Any:
        raise OSError(errno.ENOSPC, "no space left: free some", "/reg")

    monkeypatch.setattr(registry.catalog, "record_hits", full)
    failed = run_text(THREE, registry)
    assert failed.state == "failed"
    assert failed.error == "step 'a' failed: no space left: free some: /reg"
