"""Items in a grid of cells: nested passages, cells that cannot be filled, PoisonedRAG's original files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from operators.alignment.conflict_grid import question_id
from registry import Registry
from tests.engine.run_pipelines import ask, run_text

pytestmark = pytest.mark.usefixtures("in_process")

RENAME = "{correct answer: correct_answer, incorrect answer: incorrect_answer, adv_texts: poisoned}"


def poisoned(
    correct: str = "Paris", incorrect: str = "Lyon", passages: int = 5, question: str = "Which city?"
) -> dict[str, Any]:
    """An item in PoisonedRAG's format."""
    texts = [f"Passage {number} says that it is {incorrect}." for number in range(passages)]
    return {"question": question, "correct answer": correct, "incorrect answer": incorrect, "adv_texts": texts}


def grid(
    registry: Registry, items: dict[str, Any] | list[Any], facts: list[dict[str, str]] | None = None, **settings: Any
) -> Any:
    """Run conflict_grid on a file in PoisonedRAG's format, or on a list of such items."""
    Path("items.json").write_text(json.dumps(items))
    datasets = f"items: {{type: ConflictItem, path: items.json, rename: {RENAME}}}"
    given = "items"
    if facts is not None:
        Path("facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
        datasets += ", facts: {type: FactualPassage, path: facts.jsonl}"
        given = "{item: items, facts: facts}"
    step = f"{{op: conflict_grid, in: {given}, with: {json.dumps(settings)}, max_reject_ratio: 1}}"
    result = run_text(f"{{name: demo, datasets: {{{datasets}}}, steps: {{grid: {step}}}}}", registry)
    assert result.state == "succeeded", result.error
    return result


def cases(registry: Registry, where: str = "true") -> list[tuple[Any, ...]]:
    return ask(registry, f'select id, pcn, fc, contexts from "demo/grid" where {where} order by row')


def test_every_item_is_in_every_cell_and_larger_cells_contain_smaller_ones(registry: Registry) -> None:
    facts = [{"id": "one", "passage": "It is Paris."}, {"question": "which  CITY", "passage": "Paris it is."}]
    grid(registry, {"one": poisoned(), "two": poisoned(question="Which City!")}, facts)
    assert ask(registry, 'select id, count(*) from "demo/grid" group by id order by id') == [("one", 12), ("two", 12)]
    for name in ("one", "two"):
        shown = [set(contexts) for _, _, _, contexts in cases(registry, f"id = '{name}' and not fc")]
        assert [len(each) for each in shown] == [0, 1, 2, 3, 4, 5]
        assert all(smaller < larger for smaller, larger in itertools.pairwise(shown))
    [(_, _, _, contexts)] = cases(registry, "id = 'two' and pcn = 2 and fc")
    assert contexts[0] == "Paris it is."  # the factual passage stands first
    # Each case comes from its item, and from the passage that it shows.
    query = "select distinct parent from row_lineage where child = 'demo/grid' order by parent"
    assert ask(registry, query) == [("demo/facts",), ("demo/items",)]


def test_ids_that_pandas_turned_into_floats_match_and_unmatched_facts_are_counted(registry: Registry) -> None:
    item = {**poisoned(passages=1), "id": 7}
    dotted = {**poisoned(passages=1, question="Which?"), "id": "1.10"}
    facts = [{"id": value, "passage": f"It is Paris ({value})."} for value in (7.0, "7.00", 8.0, "1.1", 7.5)]
    result = grid(registry, [item, dotted], facts, pcn=[0], factual_passages=2, fc=[True])  # type: ignore[arg-type]
    [(ident, _, _, contexts)] = cases(registry)
    assert (ident, sorted(contexts)) == ("7", ["It is Paris (7.0).", "It is Paris (7.00)."])
    shown = ask(registry, "select slice, value from metrics where metric = 'facts' order by slice")
    assert shown == [("given", 5), ("matched to an item", 2)]
    assert result.steps[-1].partial or result.steps[-1].record.rejected  # the other item has no facts, and that is said


def test_orders_of_passages_and_temperatures_multiply_cases(registry: Registry) -> None:
    facts = [{"id": "one", "passage": "It is Paris."}]
    more = {"pcn": [0, 2], "factual_first": [True, False], "temperatures": [0, 0.7]}
    grid(registry, {"one": poisoned()}, facts, **more)
    assert ask(registry, 'select pcn, fc, factual_first, temperature from "demo/grid" order by all') == [
        (0, False, False, 0.0),
        (0, False, False, 0.7),
        (0, True, False, 0.0),
        (0, True, False, 0.7),
        (2, False, False, 0.0),
        (2, False, False, 0.7),
        (2, True, False, 0.0),
        (2, True, False, 0.7),
        (2, True, True, 0.0),
        (2, True, True, 0.7),
    ]
    [(_, _, _, contexts)] = cases(registry, "fc and pcn = 2 and not factual_first and temperature = 0")
    assert contexts[-1] == "It is Paris."


def test_cells_that_cannot_be_filled_are_rejected_with_a_reason(registry: Registry) -> None:
    grid(registry, {"few": poisoned(passages=1), "same": poisoned(incorrect="PARIS.")}, pcn=[0, 1, 2], fc=[False, True])
    assert [(pcn, fc) for _, pcn, fc, _ in cases(registry)] == [(0, False), (1, False)]
    assert ask(registry, "select reason from rejects order by 1") == [
        ("it has 0 factual passages, too few for pcn=0 fc=yes, pcn=1 fc=yes",),
        ("it has 1 poisoned passage, too few for pcn=2 fc=no, pcn=2 fc=yes",),
        ("its incorrect answer equals its correct answer: Paris",),
    ]


def test_leaky_poisoned_passages_are_counted_and_can_be_dropped(registry: Registry) -> None:
    item = poisoned()
    item["adv_texts"][0] = "It is Lyon, and no longer Paris."
    grid(registry, {"one": item}, pcn=[4, 5], fc=[False], leaky="drop")
    assert [pcn for _, pcn, _, _ in cases(registry)] == [4]
    counted = "select slice, value from metrics where metric = 'poisoned_passages' order by slice"
    assert ask(registry, counted) == [("all", 5), ("naming the correct answer", 1)]


def test_the_same_items_and_seed_give_the_same_cases(registry: Registry, tmp_path: Path) -> None:
    items = {name: poisoned(question=f"Which {name}?") for name in ("one", "two", "three")}
    grid(registry, items)
    other = Registry(tmp_path / "other")
    grid(other, dict(reversed(items.items())))
    contents = 'select id, pcn, contexts from "demo/grid" order by id, pcn'
    assert ask(registry, contents) == ask(other, contents)


def test_a_repeated_value_is_an_error(registry: Registry) -> None:
    with pytest.raises(Exception, match="pcn: a value is repeated"):
        grid(registry, {"one": poisoned()}, pcn=[1, 1])


def test_unusable_items_are_rejected_and_missing_ids_are_derived_from_questions(registry: Registry) -> None:
    grid(registry, [poisoned(passages=0), poisoned(correct=" "), poisoned(passages=1)], pcn=[1], fc=[False])
    assert [ident for ident, *_ in cases(registry)] == [question_id("which  city")]
    assert question_id("Which city?") == question_id("which  city") != question_id("Which town?")
    assert ask(registry, "select parent_row, reason from rejects order by 1") == [
        (0, "it has 0 poisoned passages, too few for pcn=1 fc=no"),
        (1, "its correct answer is empty"),
    ]


def test_facts_match_by_id_before_question_and_equal_passages_count_once(registry: Registry) -> None:
    item = {**poisoned(), "adv_texts": ["It is Lyon.", " ", "It is Lyon."], "factual": ["Paris!"]}
    facts = [
        {"id": "other", "question": "Which city?", "passage": "Of another item."},
        {"id": "one", "passage": "Paris!"},
        {"question": "which city", "passage": "It is Paris."},
    ]
    grid(registry, {"one": item}, facts, pcn=[0, 1, 2], fc=[True], factual_passages=2)
    assert [(pcn, sorted(contexts)) for _, pcn, _, contexts in cases(registry)] == [
        (0, ["It is Paris.", "Paris!"]),
        (1, ["It is Lyon.", "It is Paris.", "Paris!"]),
    ]
    # A passage that the item itself has is not credited to the file of facts.
    assert ask(registry, "select distinct parent_row from row_lineage where parent = 'demo/facts'") == [(2,)]


def test_a_fact_without_id_and_question_is_an_error(registry: Registry) -> None:
    with pytest.raises(AssertionError, match="row 0 of the facts has neither an `id` nor a `question`"):
        grid(registry, {"one": poisoned()}, [{"passage": "It is Paris."}])
