"""Operators that accept rows of any type get their types from their inputs, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from registry import Registry
from tests.engine.run_pipelines import ask, outcomes, run_text, words

PROBLEMS = '{"question": "a", "answer": "1"}\n{"question": "a", "answer": "2"}\n{"question": "b", "answer": "3"}\n'

PIPELINE = """
    name: demo
    datasets: {problems: {type: MathProblem, path: problems.jsonl}}
    steps:
      once: {op: unique, in: problems, with: {of: question}}
      twice: {op: unique, in: once.first, with: {of: answer}}
    """


@pytest.mark.usefixtures("in_process")
def test_outputs_have_the_type_of_their_inputs(registry: Registry) -> None:
    Path("problems.jsonl").write_text(PROBLEMS)
    result = run_text(PIPELINE, registry)
    assert result.state == "succeeded", result.error
    assert ask(registry, "select name, type, rows from datasets where name like '%e.%' order by 1") == [
        ("demo/once.again", "MathProblem", 1),
        ("demo/once.first", "MathProblem", 2),
        ("demo/twice.again", "MathProblem", 0),
        ("demo/twice.first", "MathProblem", 2),
    ]
    assert ask(registry, "select child_row, parent_row from row_lineage where child = 'demo/once.first' order by 1") == [
        (0, 0),
        (1, 2),
    ]
    assert outcomes(run_text(PIPELINE, registry)) == {"once": "hit", "twice": "hit"}


def problems_of(text: str) -> str:
    Path("p.yaml").write_text(text)
    with pytest.raises(PipelineError) as caught:
        check(Path("p.yaml"))
    return str(caught.value)


def test_the_types_are_passed_on_and_checked(workdir: Path) -> None:
    words("a")
    said = problems_of(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}},"
        " steps: {once: {op: unique, in: words}, cot: {op: to_sft, in: once.first}}}"
    )
    assert "to_sft needs MathSolution as 'solution', but once.first is Word: field 'question' (str) is missing" in said


def test_rows_of_two_types_do_not_mix(workdir: Path) -> None:
    words("a")
    Path("problems.jsonl").write_text(PROBLEMS)
    said = problems_of(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}, problems: {type: MathProblem, path: problems.jsonl}},"
        " steps: {once: {op: unique, in: [words, problems]}}}"
    )
    assert "problems is concatenated with words, which is Word, but it is MathProblem: field 'text' (str) is missing" in said


def test_an_operator_checks_its_parameters_against_the_types(workdir: Path) -> None:
    Path("problems.jsonl").write_text(PROBLEMS)
    said = problems_of(
        "{name: demo, datasets: {problems: {type: MathProblem, path: problems.jsonl}}, steps: {once: {op: unique, in: problems}}}"
    )
    assert "unique: no text" in said


def test_a_cycle_of_open_types_is_called_a_cycle(workdir: Path) -> None:
    said = problems_of(
        json.dumps(
            {
                "name": "demo",
                "steps": {"a": {"op": "unique", "in": "b.first"}, "b": {"op": "unique", "in": "a.first"}},
            }
        )
    )
    assert "the steps form a cycle" in said
