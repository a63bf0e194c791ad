"""Rows of two versions correspond if they come from the same source row, or agree in key fields."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.comparison.compare import Result, compare
from registry import Registry
from tests.engine.run_pipelines import run_text, words

TEXT = """\
name: {name}
params: {{mark: "!"}}
datasets: {{words: {{type: Word, path: words.jsonl}}}}
steps: {{loud: {{op: shout, in: words, with: {{mark: "${{params.mark}}"}}}}}}
"""

pytestmark = pytest.mark.usefixtures("in_process")


def run(registry: Registry, *rows: str, name: str = "p", mark: str = "!") -> None:
    words(*rows)
    assert run_text(TEXT.format(name=name), registry, settings=[f"mark='{mark}'"]).state == "succeeded"


def result(registry: Registry, *targets: str, field: str = "text=ANT!", by: tuple[str, ...] = ()) -> Result:
    [part] = compare(registry, targets, fields=[field], by=by).parts
    [found] = part.results
    return found


def test_rows_of_one_source_are_paired_whatever_their_order(registry: Registry) -> None:
    run(registry, "ant", "bear", "cat")
    run(registry, "ant", "bear", "cat", mark="?")
    found = result(registry, "p/loud@1", "p/loud@2")
    assert found.difference.paired
    assert (found.difference.clusters, found.difference.rows) == (3, (3, 3))
    assert (found.difference.lower, found.difference.higher, found.left_out) == (1, 0, (0, 0))


def test_equal_rows_of_a_source_that_grew_are_the_same(registry: Registry) -> None:
    run(registry, "ant", "ant", "bear")
    run(registry, "bear", "cat", "ant", "ant", "ant")
    found = result(registry, "p/loud@1", "p/loud@2")
    assert found.difference.clusters == 3
    assert found.left_out == (0, 2)


def test_equal_rows_of_another_pipelines_source_are_the_same(registry: Registry) -> None:
    run(registry, "ant", "bear")
    run(registry, "bear", "ant", name="q", mark="?")
    found = result(registry, "p/loud", "q/loud")
    assert (found.difference.paired, found.difference.clusters) == (True, 2)


def test_rows_without_a_common_source_are_paired_by_a_field_or_not_at_all(registry: Registry) -> None:
    run(registry, "ant", "bear")
    run(registry, "cat", "ANT", name="q")
    assert not result(registry, "p/loud", "q/loud").difference.paired
    found = result(registry, "p/loud", "q/loud", by=("text",))
    assert (found.difference.paired, found.difference.rows, found.left_out) == (True, (1, 1), (1, 1))


def test_rows_without_a_value_are_left_out(registry: Registry, workdir: Path) -> None:
    text = "name: {name}\ndatasets: {{scores: {{path: {name}.jsonl}}}}\nsteps: {{kept: {{op: dedup, in: scores, with: {{fields: [id], method: exact}}}}}}\n"
    for name, values in (("p", [0.5, 1.0, None]), ("q", [0.5, 2.0, 3.0])):
        rows = [{"id": f"row {number}", "score": value} for number, value in enumerate(values)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = run_text(text.format(name=name), registry)
        assert done.state == "succeeded", done.error
    found = result(registry, "p/kept.kept", "q/kept.kept", field="score", by=("id",))
    assert (found.difference.value, found.difference.rows, found.left_out) == (0.5, (2, 2), (1, 1))


def test_scores_are_compared_unasked_and_other_whole_numbers_are_named(registry: Registry, workdir: Path) -> None:
    text = "name: {name}\ndatasets: {{d: {{path: {name}.jsonl}}}}\nsteps: {{kept: {{op: dedup, in: d, with: {{fields: [id], method: exact}}}}}}\n"
    for name, field, shift in (("p", "score", 0), ("q", "score", 1), ("r", "grade", 0), ("s", "grade", 1)):
        rows = [{"id": f"row {number}", field: number % 3 + shift} for number in range(9)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert run_text(text.format(name=name), registry).state == "succeeded"
    [part] = compare(registry, ["p/kept.kept", "q/kept.kept"], by=["id"]).parts
    assert [(each.field, each.difference.value) for each in part.results] == [("score", 1.0)]
    [part] = compare(registry, ["r/kept.kept", "s/kept.kept"], by=["id"]).parts
    assert not part.results
    assert "have no verdict, score, boolean or fraction in common; --field grade compares a number" in part.notes[0]
