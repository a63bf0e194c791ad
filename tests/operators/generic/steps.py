"""Pipelines of one step on `rows.jsonl`, whose type is written in the file, for the operators of operators/generic."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, run_text

TYPE = {"question": "str", "persona": "str?", "n": "int?"}


def rows(*given: dict[str, Any]) -> None:
    """Write the rows."""
    Path("rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in given))


def step(
    op: str,
    server: ChatServer | None = None,
    model: Mapping[str, Any] | None = None,
    row_type: Mapping[str, Any] = TYPE,
    **params: Any,
) -> str:
    """The pipeline, with a line for each parameter, so that positions can be distinguished."""
    lines = [
        "name: demo",
        f"types: {{Row: {json.dumps(row_type)}}}",
        "datasets: {rows: {type: Row, path: rows.jsonl, allow_empty: true}}",
        f"models: {{model: {server.model(**(model or {})) if server else json.dumps({'provider': 'openai', 'model': 'm', **(model or {})})}}}",
        "steps:",
        "  step:",
        f"    op: {op}",
        "    in: rows",
        "    max_reject_ratio: 1",
        "    with:",
        *(f"      {name}: {json.dumps(value)}" for name, value in params.items()),
    ]
    return "\n".join(lines) + "\n"


def wrong(
    op: str, *, row_type: Mapping[str, Any] = TYPE, model: Mapping[str, Any] | None = None, **params: Any
) -> dict[str, str]:
    """The problems that `check` finds in such a step, by the text at their positions (up to 25 characters)."""
    if not Path("rows.jsonl").exists():
        rows()
    Path("p.yaml").write_text(step(op, None, model, row_type, **params))
    lines = Path("p.yaml").read_text().splitlines()
    with pytest.raises(PipelineError) as caught:
        check(Path("p.yaml"))
    found: dict[str, str] = {}
    for problem in caught.value.problems:
        assert problem.position, problem
        assert re.match(r"p\.yaml:\d+:\d+", str(problem.position))
        text = lines[problem.position.line - 1][problem.position.column - 1 :][:25]
        found[text] = f"{problem.message} {problem.hint}".strip()
    return found


def run_ok(text: str, registry: Registry, **how: Any) -> Any:
    """Run it; it succeeds."""
    result = run_text(text, registry, **how)
    assert result.state == "succeeded", result.error
    return result


def made(registry: Registry, columns: str, output: str = "demo/step") -> list[tuple[Any, ...]]:
    """Columns of an output, in order."""
    return ask(registry, f'select {columns} from "{output}" order by row')


def reasons(registry: Registry) -> dict[int, str]:
    """The reasons of the rejects, by row."""
    return dict(ask(registry, "select parent_row, string_agg(reason, '; ') from rejects group by 1"))


def metrics(registry: Registry) -> dict[str, float]:
    """The step's metrics."""
    return {f"{name} {part}".strip(): value for name, part, value in ask(registry, "select metric, slice, value from metrics")}
