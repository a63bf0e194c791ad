"""Rows that an operator passes on are not written again, and are the same rows with the same lineage as if they were."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from engine.jobs import partitions
from engine.jobs.partitions import Size
from registry import ObjectStore, Registry
from registry.storage.objects import Stored
from tests.engine.run_pipelines import ask, run_text, texts, words

pytestmark = pytest.mark.usefixtures("in_process")

OPERATORS = {
    "rows": "dies",
    "rows that wait": "patient, with: {seconds: 0}",
    "batches": "filter, with: {where: text <> 'drop'}",
    "rows of several kinds": "mixed",
}


def run_step(op: str, registry: Registry) -> tuple[list[str], list[str]]:
    """Run an operator on words; returns the objects with its input and with its first output."""
    result = run_text(
        f"{{name: demo, datasets: {{words: {{type: Word, path: words.jsonl}}}}, steps: {{s: {{op: {op}, in: words}}}}}}",
        registry,
    )
    assert result.state == "succeeded", result.error
    before, after = registry.manifest("demo/words", 1), registry.manifest(output(op), 1)
    return [each.sha256 for each in before.data], [each.sha256 for each in after.data]


def output(op: str) -> str:
    """The name of its first output."""
    return "demo/s.kept" if op.startswith("filter") else "demo/s"


def parents(registry: Registry, child: str) -> list[tuple[int, int]]:
    """(row, row of its parent) of all rows."""
    return [
        (row, parent)
        for row, parent in ask(registry, f"select child_row, parent_row from row_lineage where child = '{child}' order by all")
    ]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of each object that is written."""
    found: list[list[str]] = []
    put_table = ObjectStore.put_table

    def put(self: ObjectStore, table: pa.Table, **how: Any) -> Stored:
        if table.schema.names == ["text"] and table.num_rows:
            found.append(table.column("text").to_pylist())
        return put_table(self, table, **how)

    monkeypatch.setattr(ObjectStore, "put_table", put)
    return found


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)
def test_all_rows_of_an_object_are_that_object(op: str, registry: Registry, written: list[list[str]]) -> None:
    words(*"abc")
    given, made = run_step(op, registry)
    assert made == given
    assert written == [[*"abc"]]
    assert texts(registry, output(op)) == [*"abc"]
    assert parents(registry, output(op)) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)
def test_a_part_of_an_object_is_an_object_of_its_own(
    op: str, registry: Registry, written: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COMPUTED", "BATCHES"):
        monkeypatch.setattr(partitions, name, Size(2, 2, by_content=False))
    words(*"abc")
    given, made = run_step(op, registry)
    assert len(made) == 2
    assert not {*given} & {*made}
    assert sorted(written) == [[*"ab"], [*"abc"], ["c"]]
    assert texts(registry, output(op)) == [*"abc"]
    assert parents(registry, output(op)) == [(0, 0), (1, 1), (2, 2)]


def test_rows_that_were_left_out_are_not_in_the_output(registry: Registry) -> None:
    words("a", "drop", "b")
    given, made = run_step("filter, with: {where: text <> 'drop'}", registry)
    assert made != given
    assert texts(registry, "demo/s.kept") == ["a", "b"]
    assert parents(registry, "demo/s.kept") == [(0, 0), (1, 2)]


def test_one_partition_may_have_rows_of_every_kind(registry: Registry) -> None:
    words("a", "drop", "new", "twice", "b")
    run_step("mixed", registry)
    assert texts(registry, "demo/s") == ["a", "made", "twice", "twice", "b"]
    assert parents(registry, "demo/s") == [(0, 0), (1, 2), (2, 3), (3, 3), (4, 4)]
    assert ask(registry, "select rows_in, rows_out, filtered from internal.step_runs") == [(5, 5, 1)]


def test_as_many_rows_as_there_were_may_still_be_others(registry: Registry) -> None:
    words("drop", "twice")
    given, made = run_step("mixed", registry)
    assert made != given
    assert texts(registry, "demo/s") == ["twice", "twice"]
    assert parents(registry, "demo/s") == [(0, 1), (1, 1)]
