"""A file that grew is read from the end of the previous version on, which does not affect the result."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from engine.planning.results import SourcePlan
from engine.planning.sources import plan_source
from engine.sources.files import growth
from registry import Manifest, Registry
from registry.records import boundaries

TEXT = """
name: demo
datasets: {words: {type: Word, path: "words*.jsonl"%s}}
steps:
  loud: {op: shout, in: words}
"""


@pytest.fixture(autouse=True)
def _small_objects(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundaries, "BOUNDS", boundaries.Bounds(row=100, window=300, most=2400))


@pytest.fixture
def continues(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each source that was read, whether it continued another version."""
    found: list[bool] = []
    original = growth.continued

    def watched(*arguments: Any) -> growth.Continued | None:
        found.append((result := original(*arguments)) is not None)
        return result

    monkeypatch.setattr(growth, "continued", watched)
    return found


def drawn(count: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"text": f"word {draw.random()}", "extra": 1} for _ in range(count)]


def write(rows: list[dict[str, Any]], file: str = "words.jsonl") -> None:
    Path(file).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def plan(registry: Registry, more: str = "") -> SourcePlan:
    Path("p.yaml").write_text(TEXT % more)
    pipeline = check(Path("p.yaml"))
    return plan_source(pipeline, pipeline.sources["words"], registry)


def commit(registry: Registry, planned: SourcePlan) -> Manifest:
    assert planned.draft
    run = registry.catalog.begin_run("demo", {})
    [manifest] = registry.catalog.commit([planned.draft], run, None)
    registry.catalog.end_run(run, "succeeded")
    return manifest


def same(registry: Registry, planned: SourcePlan, more: str = "") -> None:
    """Check that reading everything gives the same."""
    fresh = plan(Registry(registry.root.with_name("fresh")), more)
    assert planned.draft
    assert fresh.draft
    assert [(part.sha256, part.rows) for part in planned.draft.data] == [(part.sha256, part.rows) for part in fresh.draft.data]
    assert (planned.draft.content_id, planned.rows, planned.ignored) == (fresh.draft.content_id, fresh.rows, fresh.ignored)
    assert planned.draft.rows_in == fresh.draft.rows_in
    assert planned.draft.key_object == fresh.draft.key_object


@pytest.mark.parametrize("steps", [(1, 2, 3), (40, 41, 90), (100, 101, 102, 200, 201), (7, 300)])
def test_a_file_that_grew_gives_what_reading_all_of_it_gives(
    registry: Registry, continues: list[bool], steps: tuple[int, ...]
) -> None:
    rows = drawn(max(steps))
    for count in steps:
        write(rows[:count])
        planned = plan(registry)
        same(registry, planned)
        commit(registry, planned)
        continues[:] = [each for each in continues if each]
    assert continues == [True] * (len(steps) - 1)


def test_the_last_of_several_files_may_grow(registry: Registry, continues: list[bool]) -> None:
    write(drawn(20, 1), "words1.jsonl")
    write(drawn(20, 2), "words2.jsonl")
    commit(registry, plan(registry))
    write(drawn(30, 2), "words2.jsonl")
    same(registry, plan(registry))
    write(drawn(30, 1), "words1.jsonl")
    same(registry, plan(registry))
    assert continues == [True, False]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ", limit: 30"),
        (", limit: 5", ""),
        ("", ", on_error: skip"),
        ("", ", defaults: {text: x}"),
    ],
)
def test_another_way_of_reading_reads_everything(registry: Registry, continues: list[bool], before: str, after: str) -> None:
    write(drawn(20))
    commit(registry, plan(registry, before))
    write(drawn(40))
    same(registry, plan(registry, after), after)
    assert continues == [False]


def test_a_changed_row_and_an_unended_line_read_everything(registry: Registry, continues: list[bool]) -> None:
    rows = drawn(40)
    write(rows[:20])
    commit(registry, plan(registry))
    write([{"text": "other"}, *rows[1:]])
    same(registry, plan(registry))
    Path("words.jsonl").write_text('{"text": "a"}')
    commit(registry, plan(registry))
    Path("words.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    same(registry, plan(registry))
    assert not any(continues)


def test_rejected_rows_read_everything(registry: Registry, continues: list[bool]) -> None:
    skip = ", on_error: skip"
    write([*drawn(10), {"text": None}])
    commit(registry, plan(registry, skip))
    write([*drawn(10), {"text": None}, {"text": "more"}])
    assert plan(registry, skip).rejected == 1
    assert continues == [False]


def test_errors_of_added_rows_name_their_lines(registry: Registry, continues: list[bool]) -> None:
    write(drawn(30))
    commit(registry, plan(registry))
    write([*drawn(30), {"text": "good"}, {"text": None}])
    with pytest.raises(PipelineError, match=r"words\.jsonl:32: not a Word"):
        plan(registry)
    planned = plan(registry, ", on_error: skip")
    assert planned.draft
    [rejects] = planned.draft.side
    [row] = registry.store.read_table(rejects.sha256).to_pylist()
    assert (row["parent_row"], row["reason"].partition(": ")[0]) == (31, "words.jsonl:32")
    assert continues == [True, False]


def test_a_damaged_object_is_made_again_from_the_file(registry: Registry, continues: list[bool]) -> None:
    write(drawn(100))
    made = commit(registry, plan(registry))
    last = registry.store.path(made.data[-1].sha256)
    last.write_bytes(last.read_bytes()[:-1] + b"\0")
    write(drawn(120))
    same(registry, plan(registry))
    assert continues == [False]
