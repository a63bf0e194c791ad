"""Pipelines of one step on a file of rows, for tests of the generic operators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from registry import Registry
from tests.engine.run_pipelines import ask, run_text

ORDER = {
    "id": "int",
    "item": "str",
    "price": "float?",
    "urgency": "low | high",
    "tags": "list[str]",
    "buyer": {"name": "str", "age": "int?"},
}
"""The type of most rows here."""


def order(id: int, **fields: Any) -> dict[str, Any]:
    """A row of `orders.jsonl`."""
    return {
        "id": id,
        "item": "tea",
        "price": 1.5,
        "urgency": "low",
        "tags": [],
        "buyer": {"name": "Ann", "age": None},
        **fields,
    }


def write(name: str, *rows: dict[str, Any]) -> None:
    """Write NAME.jsonl."""
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def pipeline(op: str, given: Any = "orders", types: dict[str, Any] | None = None, **params: Any) -> str:
    """A pipeline with one step on `orders.jsonl`, or on a file for each of these types (name of dataset -> its type's fields)."""
    types = types or {"orders": ORDER}
    return json.dumps(
        {
            "name": "demo",
            "types": {name.title(): fields for name, fields in types.items()},
            "datasets": {name: {"type": name.title(), "path": f"{name}.jsonl", "allow_empty": True} for name in types},
            "steps": {"step": {"op": op, "in": given, "with": params, "max_reject_ratio": 1.0}},
        },
        indent=1,
        ensure_ascii=False,
    )


def wrong(text: str) -> str:
    """The problems that `check` finds."""
    Path("p.yaml").write_text(text)
    with pytest.raises(PipelineError) as caught:
        check(Path("p.yaml"))
    return str(caught.value)


def place(text: str, part: str) -> str:
    """The position of a text in a pipeline file."""
    before = text[: text.index(part)]
    return f"p.yaml:{before.count(chr(10)) + 1}:{len(before) - (before.rfind(chr(10)) + 1) + 1}:"


def run_ok(text: str, registry: Registry, **more: Any) -> None:
    """Run a pipeline that succeeds."""
    result = run_text(text, registry, **more)
    assert result.state == "succeeded", result.error


def rows_of(registry: Registry, output: str = "", columns: str = "* exclude row") -> list[tuple[Any, ...]]:
    """The rows of the step, in order."""
    name = f"demo/step.{output}" if output else "demo/step"
    return ask(registry, f'select {columns} from "{name}" order by row')


def parents(registry: Registry, output: str = "") -> list[tuple[int, str, int]]:
    """(row, dataset, row of it) of a step's output."""
    name = f"demo/step.{output}" if output else "demo/step"
    found = ask(registry, f"select child_row, parent, parent_row from row_lineage where child = '{name}' order by all")
    return [(row, parent.removeprefix("demo/"), number) for row, parent, number in found]


def metrics(registry: Registry, metric: str = "rows") -> dict[str, float]:
    """Slice -> value."""
    return dict(ask(registry, f"select slice, value from metrics where metric = '{metric}' order by 1"))


def rejects(registry: Registry) -> list[tuple[int, str]]:
    """(row of the input, reason)."""
    return ask(registry, "select parent_row, reason from rejects order by all")
