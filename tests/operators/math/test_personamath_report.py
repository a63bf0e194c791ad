"""The report of a PersonaMath pipeline, for any training rows and held-out problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry import Registry, Report
from tests.engine.run_pipelines import run_text

pytestmark = pytest.mark.usefixtures("in_process")


def predicted(verdict: str, **more: Any) -> dict[str, Any]:
    return {"question": "What is 1 + 1?", "answer": "2", "solution": "s", "verdict": verdict, **more}


def report_on(registry: Registry, **tables: list[dict[str, Any]]) -> str:
    """The report's text on these inputs; the others are empty."""
    names = ["problems", "solved", "unsolved", "repaired", "augmented", "refused", "training", "before", "after"]
    for name in names:
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tables.get(name, [])))
    types = {name: "MathProblem" if name == "problems" else "MathSolution" for name in names}
    document = {
        "name": "demo",
        "datasets": {name: {"type": types[name], "path": f"{name}.jsonl", "allow_empty": True} for name in names},
        "steps": {
            "report": {"op": "personamath_report", "in": {name: name for name in names}, "with": {"embeddings": False}},
        },
    }
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    [report] = registry.records("demo/report@1", Report)
    return report.text


def test_training_rows_may_come_from_elsewhere(registry: Registry) -> None:
    text = report_on(registry, solved=[predicted("correct")], training=[predicted("correct"), predicted("correct", id="more")])
    assert "| left to train on | 1 | 2 | - |" in text


def test_problems_with_equal_texts_are_compared_in_order(registry: Registry) -> None:
    text = report_on(
        registry,
        before=[predicted("wrong"), predicted("correct")],
        after=[predicted("correct"), predicted("correct")],
    )
    assert "Solved only after training: 1; only before: 0." in text
