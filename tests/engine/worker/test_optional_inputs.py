"""Optional inputs, outputs made by `finish`, Params classes, distinct roles, and checkpoints that survive a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from registry import Registry
from tests.engine.run_pipelines import ask, run_text, texts, words

pytestmark = pytest.mark.usefixtures("in_process")

DATA = "datasets: {words: {type: Word, path: words.jsonl}, more: {type: Word, path: more.jsonl}}"


def measured(given: str, registry: Registry, settings: str = "{}") -> None:
    words("a", "bb", "cc")
    words("x", "y", file="more.jsonl")
    result = run_text(f"{{name: demo, {DATA}, steps: {{m: {{op: measure, in: {given}, with: {settings}}}}}}}", registry)
    assert result.state == "succeeded", result.error


def test_an_omitted_input_is_passed_as_none(registry: Registry) -> None:
    measured("words", registry)
    assert texts(registry, "demo/m.words@1") == ["a", "bb", "cc"]
    measured("{word: words, others: more}", registry)
    assert texts(registry, "demo/m.words@2") == ["a 2", "bb 2", "cc 2"]


def test_a_missing_required_input_is_an_error(registry: Registry) -> None:
    words("a")
    words("x", file="more.jsonl")
    Path("p.yaml").write_text(f"{{name: demo, {DATA}, steps: {{m: {{op: measure, in: {{others: more}}}}}}}}")
    with pytest.raises(PipelineError, match="measure needs the input 'word'"):
        check(Path("p.yaml"))


def test_finish_makes_an_output_from_the_counters(registry: Registry) -> None:
    measured("words", registry, "{unit: signs}")
    assert texts(registry, "demo/m.lengths@1") == ["1: 1 of signs", "2: 2 of signs"]
    # Of such rows no single source is known, but that they came from the words.
    assert ask(registry, "select child, parent from lineage where child = 'demo/m.lengths'") == [
        ("demo/m.lengths", "demo/words")
    ]
    assert ask(registry, "select * from row_lineage where child = 'demo/m.lengths'") == []


SIZED = """
name: demo
models:
  teacher: {provider: openai, model: m, base_url: 'http://localhost:1'}
  judge: {provider: openai, model: JUDGE, base_url: 'http://localhost:1'}
datasets: {words: {type: Word, path: words.jsonl}}
steps: {s: {op: sized, in: words, with: {inches: 2}}}
"""


@pytest.mark.parametrize(("judge", "warned"), [("m", ["teacher and judge are the same model"]), ("other", [])])
def test_params_classes_work_and_equal_models_in_distinct_roles_give_a_warning(
    registry: Registry, judge: str, warned: list[str]
) -> None:
    words("a")
    text = SIZED.replace("JUDGE", judge)
    result = run_text(text, registry)
    assert result.state == "succeeded", result.error
    assert texts(registry, "demo/s@1") == ["a 5.08"]
    fresh = Registry(Path("other").absolute())
    plan = make_plan(check(Path("p.yaml")), fresh, select=set(), force=set())
    assert list(plan.steps[0].notes) == ["inches: 2 is centimetres: 5.08", *warned]


def test_checkpoints_are_found_by_the_second_attempt_and_then_removed(registry: Registry) -> None:
    marker = Path("broken").absolute()
    marker.touch()
    words(str(marker))
    text = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {c: {op: count_up, in: words}}}"
    assert "not yet" in str(run_text(text, registry).error)
    marker.unlink()
    assert run_text(text, registry).state == "succeeded"
    assert texts(registry, "demo/c@1") == ["from 2 to 3"]
    assert not list(registry.receipts.glob("*/checkpoints"))
    run_text(text, registry, force="c")
    assert texts(registry, "demo/c@2") == ["from 0 to 3"]
