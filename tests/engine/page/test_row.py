"""The page of a row: its sources, its calls, what was made from it, and what would be removed with it."""

from __future__ import annotations

import pytest

from engine.page.facts.story.row import _order, row_story
from engine.page.facts.story.row_graph import row_graph
from registry import Registry
from registry.errors import QueryError
from registry.lineage.targets import Version
from tests.engine.page.conftest import Visit
from tests.engine.page.crafted import HOSTILE, make_hostile, reading


def test_a_row_has_its_seed_its_calls_and_what_is_new_in_it(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        story = row_story(reader, "demo/judged@1", 4)
    assert [(stage.step, [each.row for each in stage.rows]) for stage in story.before] == [
        ("seeds", [1]),
        ("answers", [4]),
        ("judged", [4]),
    ]
    [answer] = story.before[1].rows
    assert {each.name: each.change for each in answer.fields} == {"question": "same", "sample": "new", "answer": "new"}
    [call] = answer.calls
    assert (call.model, call.role, call.cost_usd, call.latency_ms) == ("gpt-5-mini", "teacher", 0.25, 1234.5)
    assert call.prompt == [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Question 4?"}]
    assert call.reasoning == "First I think."
    assert (call.tokens_in, call.tokens_out, call.tokens_cached, call.tokens_reasoning) == (100, 50, 10, 20)
    [judged] = story.itself.rows
    assert [(each.role, each.response) for each in judged.calls] == [("judge", '{"score": 4}')]
    assert judged.text == "score: 4"


def test_samples_of_the_same_row_are_siblings(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        story = row_story(reader, "demo/answers@1", 4)
        seed = row_story(reader, "demo/seeds@1", 1)
    assert [(each.row, each.text) for each in story.siblings] == [
        (3, "sample: 0 · answer: Answer 3. Because."),
        (5, "sample: 2 · answer: Answer 5. Because."),
    ]
    assert (seed.siblings, seed.more_siblings) == ((), 0)


def test_a_row_knows_what_it_became_and_which_models_saw_it(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        story = row_story(reader, "demo/seeds@1", 0)
        unseen = row_story(reader, "demo/seeds@1", 6)
    assert [(str(each.version), each.seen) for each in story.models] == [("demo/sft@1", 5)]  # answers 0, three times, 1 and 2
    assert {str(stage.version): len(stage.rows) for stage in story.after} == {
        "demo/answers@1": 3,
        "demo/judged@1": 3,
        "demo/sft@1": 1,
        "demo/calibrated@1": 1,
        "demo/after@1": 0,
    }
    assert {str(each.version): len(each.rows) for each in story.impact} == {
        "demo/seeds@1": 1,
        "demo/answers@1": 3,
        "demo/judged@1": 3,
        "demo/sft@1": 1,
        "demo/calibrated@1": 1,
        "demo/after@1": 0,
    }
    assert next(each for each in story.impact if each.version == Version("demo/after", 1)).unclear
    assert unseen.models == []


def test_the_way_of_a_row_made_by_a_model_ends_at_the_model(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        story = row_story(reader, "demo/after@1", 2)
    assert [str(stage.version) for stage in story.before] in (
        ["demo/tests@1", "demo/sft@1", "demo/after@1"],
        ["demo/sft@1", "demo/tests@1", "demo/after@1"],
    )


def test_the_graph_ties_rows_together(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        graph = row_graph(row_story(reader, "demo/answers@1", 4))
    edges = {(edge.start, edge.end) for edge in graph.edges}
    assert ("demo/seeds@1 1", "demo/answers@1 4") in edges
    assert ("demo/answers@1 4", "demo/judged@1 4") in edges
    assert ("demo/judged@1 4", "demo/sft@1 0") in edges
    assert ("demo/sft@1 0", "demo/after@1 unknown") in edges
    ids = {node.id for node in graph.nodes}
    assert all({start, end} <= ids for start, end in edges)
    assert [node.kind for node in graph.nodes if node.id == "demo/answers@1 4"] == ["start"]


def test_more_rows_than_are_shown_are_counted(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        story = row_story(reader, "demo/calibrated@1", 0)
    [judged] = [stage for stage in story.before if stage.step == "judged"]
    assert (len(judged.rows), judged.others) == (4, 17)


def test_a_row_that_does_not_exist_is_reported(registry: Registry, trained: str, visit: Visit) -> None:
    with reading(registry) as reader:
        for target, row, told in (
            ("demo/seeds@1", 8, "numbered 0 to 7"),
            ("demo/seeds@9", 0, "no version 9"),
            ("demo/sed", 0, "Did you mean"),
        ):
            with pytest.raises(QueryError, match=told):
                row_story(reader, target, row)
    page = visit(registry.root).get("/rows/99/demo/seeds@1")
    assert page.status_code == 400
    assert "has no row 99" in page.text


def test_lost_objects_are_reported_and_the_rest_is_shown(registry: Registry, trained: str, visit: Visit) -> None:
    for kind in ("lineage", "calls"):
        [side] = [each for each in registry.manifest("demo/answers", 1).side if each.kind == kind]
        registry.store.path(side.sha256).unlink()
    page = visit(registry.root).get("/rows/4/demo/answers@1")
    assert page.status_code == 200
    assert "is missing" in page.text
    assert "Answer 4. Because." in page.text


def test_a_row_whose_source_was_removed_is_shown(registry: Registry, trained: str, visit: Visit) -> None:
    registry.catalog.forget([registry.manifest("demo/seeds", 1).version_id])
    page = visit(registry.root).get("/rows/4/demo/answers@1")
    assert page.status_code == 200
    assert "removed" in page.text


def test_hostile_rows_are_text(registry: Registry, visit: Visit) -> None:
    make_hostile(registry)
    client = visit(registry.root)
    page = client.get("/rows/0/bad/%3Cu%3Estep%3C/u%3E@1")
    assert page.status_code == 200
    assert len(page.text) < 300_000
    assert "show all 1,000,000 characters" in page.text
    for raw in ("<script>alert", "<u>step", "<i>text", "\x1b", "\u202e"):
        assert raw not in page.text
    assert HOSTILE.startswith("</script>")
    assert client.get("/rows/0/bad/%3Cimg%20src=x%3E/a.b@1").status_code == 200


def test_a_story_begins_with_its_seed_and_not_with_what_rows_were_compared_with() -> None:
    seed, kept, held_out, sources, clean = (Version(name, 1) for name in ("z/seed", "z/kept", "a/test", "a/file", "a/clean"))
    made_from = {clean: [held_out, kept], kept: [seed], held_out: [sources], seed: [], sources: []}
    order = _order([clean, held_out, kept, seed, sources], made_from, vague={held_out, sources})
    assert order == [seed, kept, sources, held_out, clean]
