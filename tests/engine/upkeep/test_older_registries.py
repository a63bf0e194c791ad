"""A registry made by version 0.2.0 can be read, and the answers that were paid for are found again."""

from __future__ import annotations

import itertools
import tarfile
from pathlib import Path
from typing import Any

import pytest

from engine.export.versions import export
from engine.upkeep.fsck import fsck
from registry import Registry
from tests.engine.run_pipelines import ask, outcomes, run_text

FIXTURE = Path(__file__).parents[2] / "fixtures" / "registry-0.2.0.tar.gz"


@pytest.fixture
def old(workdir: Path) -> Registry:
    """The registry; its pipeline file and input are in the working directory."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(workdir, filter="data")
    return Registry(workdir / "registry")


def test_an_older_registry_opens_and_answers_queries(old: Registry) -> None:
    datasets = ask(old, "select name, type, latest_version, rows from datasets")
    assert datasets == [
        ("old/again.solved", "MathSolution", 1, 1),
        ("old/again.unsolved", "MathSolution", 1, 0),
        ("old/cot.solved", "MathSolution", 1, 4),
        ("old/cot.unsolved", "MathSolution", 1, 1),
        ("old/problems", "MathProblem", 1, 5),
        ("old/sft", "SFTExample", 1, 5),
    ]
    assert ask(old, "select step, outcome, rows_in, rows_out, calls from step_runs") == [
        ("cot", "ran", 5, 5, 7),
        ("again", "ran", 1, 1, 1),
        ("sft", "ran", 5, 5, 0),
    ]
    assert ask(old, "select distinct started_at, ended_at, waited_for from step_runs") == [(None, None, None)]
    assert ask(old, 'select question from "old/problems" where row = 2') == [("What is 4 + 4?",)]
    assert ask(old, "select count(distinct call_id) from llm_calls") == [(8,)]


def test_an_older_registry_is_rebuilt_to_the_same_steps(old: Registry) -> None:
    before = ask(old, "from step_runs")
    old.catalog.rebuild()
    assert ask(old, "from step_runs") == before
    assert old.catalog.differences() == []


def test_the_rows_of_an_older_registry_have_their_lineage(old: Registry) -> None:
    way = ask(old, "select name, row, len(call_ids) from trace('old/sft', 4)")
    assert way == [("old/sft", 4, 0), ("old/again.solved", 0, 1), ("old/cot.unsolved", 0, 1), ("old/problems", 4, 0)]


def test_the_card_of_an_older_version_has_its_prompt(old: Registry, tmp_path: Path) -> None:
    export(old, "old/cot.solved", "jsonl", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "{{ question }}" in card, "the built-in prompt, a constant of the operator's code"


def test_an_older_registry_is_undamaged(old: Registry) -> None:
    result = fsck(old, deep=True)
    assert result.errors == []
    assert result.checked["manifests"].count == 6


@pytest.mark.usefixtures("in_process")
def test_answers_in_an_older_journal_are_used_again(old: Registry) -> None:
    """Step keys have changed since, so the steps run again. They find every answer in the journal and get the same
    rows. The server of 0.2.0 is gone: a request would fail.
    """
    before = {name: ask(old, f'select * from "old/{name}@1"') for name in ("cot.solved", "again.solved", "sft")}
    result = run_text(Path("p.yaml").read_text(), old)
    assert (result.state, result.error) == ("succeeded", None)
    assert outcomes(result) == {"cot": "ran", "again": "ran", "sft": "ran"}
    assert [(each.record.step, each.record.calls, each.record.calls_reused) for each in result.steps] == [
        ("cot", 0, 7),
        ("again", 0, 1),
        ("sft", 0, 0),
    ]
    for name, rows in before.items():
        now, columns = ask(old, f'select * from "old/{name}"'), len(rows[0])
        assert without_nulls([row[:columns] for row in now]) == without_nulls(rows)
        assert {*itertools.chain(*(row[columns:] for row in now))} <= {None}, "fields that have been added since"


def without_nulls(value: Any) -> Any:
    """A value without fields that are null, at every depth: messages have more fields now than at the time of 0.2.0."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value
