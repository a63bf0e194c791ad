"""A row that was taken down does not come back; nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from registry import Registry
from registry.records.content import row_ids
from tests.engine.run_pipelines import ask, outcomes, run_text, texts, words

TEXT = """
name: demo
%s
datasets: {words: {type: Word, path: words.jsonl}}
steps:
  cut: {op: by_length, in: words, with: {at: 1}}
  loud: {op: shout, in: cut.long}
  once: {op: distinct, in: loud}
"""


def exclude(registry: Registry, target: str, *rows: int) -> None:
    """Put rows of a version on the exclusion list `gone.jsonl`."""
    with registry.session() as session:
        ids = list(row_ids(session.table(target)))
    name = target.partition("@")[0]
    Path("gone.jsonl").write_text("".join(json.dumps({"dataset": name, "row_id": ids[row]}) + "\n" for row in rows))


@pytest.mark.usefixtures("in_process")
def test_excluded_rows_are_left_out_of_sources_steps_and_whole_inputs(registry: Registry) -> None:
    words("ab", "cd", "ae")
    run_text(TEXT % "", registry)
    assert texts(registry, "demo/once") == ["A!", "B!", "C!", "D!", "E!"]
    with_list = TEXT % "exclude: gone.jsonl"

    exclude(registry, "demo/words@1", 0)
    assert run_text(with_list, registry).state == "succeeded"
    assert texts(registry, "demo/words") == ["cd", "ae"]
    assert texts(registry, "demo/once") == ["C!", "D!", "A!", "E!"]
    assert ask(registry, "select name, version, parent_row, reason from rejects") == [
        ("demo/words", 2, 0, "words.jsonl:1: left out because it is on the exclusion list")
    ]

    exclude(registry, "demo/cut.long@1", 2)
    result = run_text(with_list, registry)
    assert outcomes(result) == {"cut": "ran", "loud": "ran", "once": "ran"}
    assert texts(registry, "demo/cut.long") == ["a", "b", "d", "a", "e"]
    assert ask(registry, "select slice, value from metrics where metric = 'rows_excluded'") == [("long", 1)]

    exclude(registry, "demo/once@1", 0, 4)
    result = run_text(with_list, registry)
    assert outcomes(result) == {"cut": "hit", "loud": "hit", "once": "ran"}
    assert texts(registry, "demo/once") == ["B!", "C!", "D!"]
    record = result.steps[-1].record
    assert (record.rows_in, record.rows_out, record.filtered) == (6, 3, 3)

    # The operator on whole inputs yields nothing, because none of its rows is left.
    exclude(registry, "demo/once@1", 0, 1, 2, 3, 4)
    record = run_text(with_list, registry).steps[-1].record
    assert (record.rows_in, record.rows_out, record.filtered) == (6, 0, 6)

    # Without the list everything is as it was, and nothing runs.
    assert set(outcomes(run_text(TEXT % "", registry)).values()) == {"hit"}


@pytest.mark.usefixtures("in_process")
def test_excluded_rows_are_left_out_of_batches(registry: Registry) -> None:
    words("c", "a", "b")
    text = TEXT.partition("steps:")[0] + "steps: {sorted: {op: ordered, in: words}}"
    run_text(text % "", registry)
    exclude(registry, "demo/sorted@1", 0)
    assert run_text(text % "exclude: gone.jsonl", registry).state == "succeeded"
    assert texts(registry, "demo/sorted") == ["b", "c"]
    lineage = "select child_row, parent_row from row_lineage where child = 'demo/sorted' and child_version = 2 order by all"
    assert ask(registry, lineage) == [(0, 2), (1, 0)]
    assert ask(registry, "select value from metrics where metric = 'rows_excluded'") == [(1,)]


@pytest.mark.usefixtures("in_process")
def test_a_registry_version_with_excluded_rows_is_refused(registry: Registry) -> None:
    words("ab", "cd")
    run_text(TEXT % "", registry)
    Path("next.yaml").write_text("{name: next, exclude: gone.jsonl, steps: {louder: {op: shout, in: 'registry:demo/loud@1'}}}")
    # What was made from such rows is refused, too.
    exclude(registry, "demo/words@1", 0)
    with (
        registry.look_ups() as look_ups,
        pytest.raises(PipelineError, match="demo/loud@1 was made from 1 row of demo/words@1 on the exclusion list"),
    ):
        check(Path("next.yaml"), None, look_ups)
    exclude(registry, "demo/loud@1", 1)
    with (
        registry.look_ups() as look_ups,
        pytest.raises(PipelineError, match="demo/loud@1 contains 1 row on the exclusion list"),
    ):
        check(Path("next.yaml"), None, look_ups)


def test_an_invalid_list_is_reported_with_its_line(workdir: Path) -> None:
    words("a")
    Path("p.yaml").write_text(TEXT % "exclude: gone.jsonl")
    with pytest.raises(PipelineError, match=r"p.yaml:3:10: there is no exclusion list gone.jsonl"):
        check(Path("p.yaml"))
    Path("gone.jsonl").write_text('{"dataset": "a", "row_id": "' + "0" * 64 + '"}\n{"row": 1}\n')
    with pytest.raises(PipelineError, match=r"gone.jsonl:2: not a line of an exclusion list"):
        check(Path("p.yaml"))
