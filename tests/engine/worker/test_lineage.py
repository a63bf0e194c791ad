"""For every shape of operator, the parents of each row are recorded, or recorded as unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.operator import Record, derived
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, run_text, texts, words
from tests.operators.training.test_train_sft import train

pytestmark = pytest.mark.usefixtures("in_process")

HEAD = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}, tags: {type: Word, path: tags.jsonl}}, "


def run_steps(steps: str, registry: Registry) -> None:
    """Run steps over words and tags."""
    result = run_text(f"{HEAD}steps: {{{steps}}}}}", registry)
    assert result.state == "succeeded", result.error


def parents(registry: Registry, child: str) -> list[tuple[int, str, int]]:
    """(row, parent, parent's row) of all rows."""
    query = f"select child_row, parent, parent_row from row_lineage where child = '{child}' order by all"
    return [(row, parent, parent_row) for row, parent, parent_row in ask(registry, query)]


def unknown(registry: Registry, child: str) -> list[str]:
    """Inputs whose rows are recorded as unknown parents."""
    found = ask(registry, f"select parent from lineage where child = '{child}' and opaque order by 1")
    return [parent for (parent,) in found]


def test_rows_that_a_whole_input_operator_passes_on_keep_their_parents(registry: Registry) -> None:
    words("b", "a", "b", "c")
    words("c", "d", file="tags.jsonl")
    run_steps("once: {op: distinct, in: [words, tags]}", registry)
    assert texts(registry, "demo/once") == ["b", "a", "c", "d"]
    assert parents(registry, "demo/once") == [
        (0, "demo/words", 0),
        (1, "demo/words", 1),
        (2, "demo/words", 3),
        (3, "demo/tags", 1),
    ]
    assert unknown(registry, "demo/once") == []
    assert ask(registry, "select rows_in, rows_out, filtered from internal.step_runs") == [(6, 4, 2)]


def test_pairs_have_both_rows_as_parents_and_unknown_parents_are_opaque(registry: Registry) -> None:
    words("a", "b")
    words("x", "y", file="tags.jsonl")
    run_steps("pair: {op: paired, in: {left: words, right: tags}}", registry)
    assert parents(registry, "demo/pair.pairs") == [
        (0, "demo/tags", 0),
        (0, "demo/words", 0),
        (1, "demo/tags", 1),
        (1, "demo/words", 1),
    ]
    assert unknown(registry, "demo/pair.pairs") == []
    assert parents(registry, "demo/pair.lump") == []
    assert unknown(registry, "demo/pair.lump") == ["demo/tags", "demo/words"]


@pytest.mark.parametrize("declared", ["true", "false"])
def test_a_second_input_is_a_parent_only_if_the_operator_declares_it(registry: Registry, declared: str) -> None:
    words("apple", "bean")
    words("blue", "amber", file="tags.jsonl")
    run_steps(f"tag: {{op: tagged, in: {{word: words, tags: tags}}, with: {{declared: {declared}}}}}", registry)
    declared_parents = [(0, "demo/tags", 1), (1, "demo/tags", 0)] if declared == "true" else []
    assert parents(registry, "demo/tag") == sorted([*declared_parents, (0, "demo/words", 0), (1, "demo/words", 1)])
    assert unknown(registry, "demo/tag") == ([] if declared_parents else ["demo/tags"])


def test_a_batch_operator_can_combine_rows(registry: Registry) -> None:
    words("apple", "bean", "ant")
    words("x", file="tags.jsonl")
    run_steps("group: {op: grouped, in: words}, lump: {op: opaque, in: words}", registry)
    assert texts(registry, "demo/group") == ["apple ant", "bean"]
    assert parents(registry, "demo/group") == [(0, "demo/words", 0), (0, "demo/words", 2), (1, "demo/words", 1)]
    assert unknown(registry, "demo/group") == []
    assert unknown(registry, "demo/lump") == ["demo/words"]


def test_calls_are_linked_to_the_row_made_from_their_answer(registry: Registry, chat_server: ChatServer) -> None:
    words("a")
    model = f"{{provider: openai, model: m, base_url: '{chat_server.base_url}'}}"
    text = f"{{name: demo, models: {{teacher: {model}}}, datasets: {{words: {{type: Word, path: words.jsonl}}}}, "
    run_text(text + "steps: {best: {op: ask_best, in: words}}}", registry)
    linked = ask(registry, "select row, prompt like '%second%' from llm_calls order by row nulls last")
    assert linked == [(0, True), (None, False)]


def test_equal_requests_of_a_whole_operator_are_one_call_a_row(registry: Registry, chat_server: ChatServer) -> None:
    words("a", "b", "c")
    text = f"{{name: demo, models: {{teacher: {chat_server.model()}}}, datasets: {{words: {{type: Word, path: words.jsonl}}}}, "
    assert run_text(text + "steps: {same: {op: ask_same, in: words}}}", registry).state == "succeeded"
    assert len(chat_server.requests) == 1
    assert ask(registry, "select row from llm_calls order by row") == [(0,), (1,), (2,)]


def test_a_models_parents_are_the_rows_that_its_trainer_saw(registry: Registry, tiny_model: Path) -> None:
    assert train(registry, tiny_model, rows=9, max_steps=3).state == "succeeded"
    query = "select dataset, dataset_version, row, times_seen from training_exposure where model = 'demo/sft' order by row"
    seen = ask(registry, query)
    # Three steps of two rows each: three of the nine rows were never seen, and the loader's read-ahead does not count.
    assert [times for *_, times in seen] == [1] * 6
    assert {row[:2] for row in seen} == {("demo/rows", 1)}
    assert parents(registry, "demo/sft") == [(0, "demo/rows", row) for _, _, row, _ in seen]
    assert unknown(registry, "demo/sft") == []


def test_every_epoch_counts(registry: Registry, tiny_model: Path) -> None:
    assert train(registry, tiny_model, rows=5, epochs=3).state == "succeeded"
    assert ask(registry, "select row, times_seen from training_exposure order by row") == [(row, 3) for row in range(5)]


def test_a_source_must_be_an_input_row_or_an_answer() -> None:
    class Note(Record):
        text: str

    with pytest.raises(ValueError, match="got a Note as a source"):
        derived(Note(text="a"), Note(text="b"))
