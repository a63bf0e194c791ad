"""Versions outlive record types: a pipeline reads an older version if it can, and otherwise names the fields that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from registry import Record, Registry
from tests.engine.export.test_export import commit
from tests.engine.run_pipelines import ask, run_text


class MathSolution(Record):
    """An older version with few of its fields."""

    question: str
    answer: str
    solution: str
    verdict: Literal["correct", "wrong"]


class Message(Record):
    """An older version without content."""

    role: str


class SFTExample(Record):
    """With the older messages, and an incompatible completion."""

    prompt: list[Message]
    completion: str


PIPELINE = """
name: now
datasets: {old: {type: MathSolution, registry: "old/solutions@1"}}
steps:
  direct: {op: to_sft, in: "registry:old/solutions@1"}
  named: {op: to_sft, in: old}
"""


def test_an_older_version_is_read_with_new_fields(registry: Registry, in_process: None) -> None:
    old = MathSolution(question="What is 1 + 1?", answer="2", solution="It is 2.", verdict="correct")
    commit(registry, "old/solutions", [[old]])
    result = run_text(PIPELINE, registry)
    assert result.state == "succeeded", result.error
    for name in ("now/direct", "now/named"):
        assert ask(registry, f'select prompt[1].content, completion[1].content from "{name}"') == [
            ("What is 1 + 1?", "It is 2.")
        ]


def test_an_incompatible_version_is_refused_before_anything_runs(registry: Registry) -> None:
    commit(registry, "old/rows", [[SFTExample(prompt=[Message(role="user")], completion="x")]])
    Path("p.yaml").write_text(
        "name: now\ndatasets:\n  old: {type: SFTExample, registry: 'old/rows@1'}\nsteps:\n  rows: {op: to_sft, in: 'registry:old/rows'}\n"
    )
    with registry.look_ups() as look_ups, pytest.raises(PipelineError) as refused:
        check(Path("p.yaml"), None, look_ups)
    said = str(refused.value)
    assert "p.yaml:3:" in said
    for reason in (
        "old/rows@1 is SFTExample, not SFTExample: field 'prompt[].content' (str) is missing",
        "old/rows@1 is SFTExample, not SFTExample: field 'completion' is str, but must be list[{role: str, content: str, ",
        "to_sft needs MathSolution as 'solution', but registry:old/rows is SFTExample: field 'question' (str) is missing",
    ):
        assert reason in said
