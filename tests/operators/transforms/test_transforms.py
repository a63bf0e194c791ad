"""Duplicates and test questions are removed from training rows of any type, each with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import PipelineError
from engine.operator import Table
from engine.pipeline.check import check
from engine.provenance import sources_of
from operators.records import Persona
from operators.transforms import near_duplicates
from operators.transforms.decontaminate import Index
from operators.transforms.dedup import DedupParams, dedup
from operators.transforms.near_duplicates import SimilarText, bands, by_embedding, by_minhash, shingles
from operators.transforms.text import tokens
from registry import Registry
from tests.engine.run_pipelines import ask, outcomes, run_text

ray = pytest.mark.usefixtures("in_process")

APPLES = "Tom buys three apples at the market in the old town and eats one of them on the long way home to his house"
NEARLY = APPLES.replace("house", "hut")
TRAINS = "A train leaves the station at noon with 90 passengers and stops in four towns before it gets to the sea"
LEAKED = f"Please solve this: {TRAINS.upper()}!"


def write(name: str, *rows: dict[str, Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def problem(question: str, answer: str = "1", **more: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, **more}


def example(question: str, answer: str) -> dict[str, Any]:
    system = {"role": "system", "content": "You are a patient teacher of mathematics who shows all steps of a solution."}
    prompt = [system, {"role": "user", "content": question}]
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}


def pipeline(
    op: str, given: str | list[str] | dict[str, str], types: dict[str, str], models: dict[str, Any] | None = None, **params: Any
) -> str:
    """A pipeline with one step, `step`, on the files NAME.jsonl."""
    datasets = {name: {"type": kind, "path": f"{name}.jsonl"} for name, kind in types.items()}
    return json.dumps(
        {
            "name": "demo",
            "models": models or {},
            "datasets": datasets,
            "steps": {"step": {"op": op, "in": given, "with": params}},
        }
    )


def run_ok(text: str, registry: Registry) -> None:
    result = run_text(text, registry)
    assert result.state == "succeeded", result.error


def wrong(text: str) -> str:
    Path("p.yaml").write_text(text)
    with pytest.raises(PipelineError) as caught:
        check(Path("p.yaml"))
    return str(caught.value)


# -- dedup ------------------------------------------------------------------------------------------------------------


@ray
def test_the_first_row_is_kept_and_duplicates_name_the_row_they_repeat(registry: Registry) -> None:
    write("first.jsonl", problem(TRAINS, "2", id="a"), problem(APPLES, "2", id="b"))
    write("second.jsonl", problem(f"  {APPLES.upper()} . ", "3"), problem(NEARLY, "4"), problem("What is 3 + 4?", "7"))
    text = pipeline("dedup", ["first", "second"], {"first": "MathProblem", "second": "MathProblem"})
    run_ok(text, registry)
    assert ask(registry, 'select question, answer, id from "demo/step.kept" order by row') == [
        (TRAINS, "2", "a"),
        (APPLES, "2", "b"),
        ("What is 3 + 4?", "7", None),
    ]
    assert ask(registry, 'select * exclude row from "demo/step.dropped" order by row') == [
        (2, 1, "exact", 1.0, f"  {APPLES.upper()} . ", APPLES),
        (3, 1, "near", 21 / 23, NEARLY, APPLES),  # of 22 runs of three words, the last one differs
    ]
    assert ask(registry, "select slice, value from metrics where metric = 'rows' order by 1") == [
        ("exact", 1),
        ("kept", 3),
        ("near", 1),
    ]
    lineage = "select child_row, parent, parent_row from row_lineage where child = 'demo/step.{}' order by all"
    assert ask(registry, lineage.format("kept")) == [(0, "demo/first", 0), (1, "demo/first", 1), (2, "demo/second", 2)]
    assert ask(registry, lineage.format("dropped")) == [
        (0, "demo/first", 1),
        (0, "demo/second", 0),
        (1, "demo/first", 1),
        (1, "demo/second", 1),
    ]
    ids = "select name, content_id from versions where name like 'demo/step.%' order by version, name"
    before = ask(registry, ids)
    assert outcomes(run_text(text, registry, force="step")) == {"step": "ran"}
    assert set(ask(registry, ids)) == set(before)


@ray
def test_rows_keep_their_types_and_conversations_are_compared_without_their_system_messages(registry: Registry) -> None:
    write("examples.jsonl", example(APPLES, "2"), example(TRAINS, "90"), example(APPLES.lower(), "3"))
    solved = problem(APPLES, "2", verdict="correct", stage=2)
    write("solutions.jsonl", {**solved, "solution": "2"}, {**solved, "solution": "Two."}, {**solved, "solution": "two"})
    write(
        "personas.jsonl",
        {"persona": "a beekeeper", "occupation": "other"},
        {"persona": "A bee-keeper"},
        {"persona": "A beekeeper."},
        {"persona": "?"},  # nothing to compare
        {"persona": "!"},
    )
    document = json.loads(
        pipeline(
            "dedup", "examples", {"examples": "SFTExample", "solutions": "MathSolution", "personas": "Persona"}, method="exact"
        )
    )
    document["steps"]["solved"] = {
        "op": "dedup",
        "in": "solutions",
        "with": {"method": "exact", "fields": ["question", "solution"]},
    }
    document["steps"]["people"] = {"op": "dedup", "in": "personas"}
    run_ok(json.dumps(document), registry)
    assert ask(registry, "select name, type, rows from datasets where name like '%.%' order by 1") == [
        ("demo/people.dropped", "Duplicate", 1),
        ("demo/people.kept", "Persona", 4),
        ("demo/solved.dropped", "Duplicate", 1),
        ("demo/solved.kept", "MathSolution", 2),
        ("demo/step.dropped", "Duplicate", 1),
        ("demo/step.kept", "SFTExample", 2),
    ]
    assert ask(registry, 'select text, duplicate_of_text from "demo/step.dropped"') == [(APPLES.lower(), APPLES)]
    assert ask(registry, 'select text from "demo/solved.dropped"') == [(f"{APPLES}\n\ntwo",)]
    assert ask(registry, 'select solution, stage from "demo/solved.kept" order by row') == [("2", 2), ("Two.", 2)]


@ray
def test_an_encoder_finds_texts_with_the_same_meaning(registry: Registry) -> None:
    write("problems.jsonl", problem(APPLES), problem(TRAINS), problem(NEARLY), problem(APPLES.upper()))
    models = {"encoder": {"provider": "sentence-transformers", "model": "all-minilm-l6-v2"}}
    run_ok(pipeline("dedup", "problems", {"problems": "MathProblem"}, models, method="embedding", threshold=0.9), registry)
    assert ask(registry, 'select question from "demo/step.kept" order by row') == [(APPLES,), (TRAINS,)]
    [near, exact] = ask(registry, 'select input_row, duplicate_of, kind, similarity from "demo/step.dropped" order by row')
    assert (near[:3], exact) == ((2, 0, "near"), (3, 0, "exact", 1.0))
    assert 0.9 <= near[3] < 1


@ray
def test_empty_inputs_give_empty_outputs(registry: Registry) -> None:
    for name in ("problems", "tests"):
        write(f"{name}.jsonl")
    types = {"problems": "MathProblem", "tests": "MathProblem"}
    document = json.loads(pipeline("decontaminate", {"rows": "problems", "reference": "tests"}, types))
    document["steps"]["once"] = {"op": "dedup", "in": "problems"}
    for dataset in document["datasets"].values():
        dataset["allow_empty"] = True
    run_ok(json.dumps(document), registry)
    assert ask(registry, "select sum(rows) from versions") == [(0,)]


def test_missing_text_fields_are_reported_before_anything_runs(workdir: Path) -> None:
    write("problems.jsonl", problem("a"))
    write("solutions.jsonl", {**problem("a"), "solution": "a", "verdict": "correct"})
    types = {"problems": "MathProblem", "solutions": "MathSolution"}
    assert "fields: MathProblem has no field 'questoin'; did you mean 'question'?" in wrong(
        pipeline("dedup", "problems", types, fields=["questoin"])
    )
    assert "fields: field 'stage' of MathSolution is not text" in wrong(pipeline("dedup", "solutions", types, fields=["stage"]))
    assert "reference_fields: MathProblem has no field 'text'" in wrong(
        pipeline("decontaminate", {"rows": "solutions", "reference": "problems"}, types, reference_fields=["text"])
    )
    assert "threshold: the method exact has none" in wrong(pipeline("dedup", "problems", types, method="exact", threshold=0.9))
    assert "dedup needs a model as 'encoder'" in wrong(pipeline("dedup", "problems", types, method="embedding"))
    assert "ignore: '...' has no words" in wrong(
        pipeline("decontaminate", {"rows": "solutions", "reference": "problems"}, types, ignore=["..."])
    )


# -- near duplicates --------------------------------------------------------------------------------------------------

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join), max_size=25, unique=True)


def jaccard(one: str, other: str, size: int) -> float:
    first, second = shingles([one], size), shingles([other], size)
    return len(first & second) / len(first | second)


@settings(max_examples=60)
@given(texts=TEXTS, threshold=st.sampled_from([0.3, 0.5, 0.8, 1.0]), size=st.integers(1, 4))
def test_dropped_texts_are_similar_to_an_earlier_kept_text(texts: list[str], threshold: float, size: int) -> None:
    found = by_minhash([[text] for text in texts], threshold, size, lambda done, total: None)
    for place, (keeper, similarity) in found.items():
        assert keeper < place
        assert keeper not in found
        assert similarity == jaccard(texts[place], texts[keeper], size) >= threshold
    if threshold == 1.0:  # then every band is equal, and nothing is left to chance
        kept = [shingles([text], size) for place, text in enumerate(texts) if place not in found]
        assert len(kept) == len({frozenset(each) for each in kept})


@pytest.mark.parametrize(("threshold", "near"), [(0.8, {1: SimilarText(0, 0.8)}), (0.8001, {})])
def test_a_similarity_equal_to_the_threshold_is_enough(threshold: float, near: dict[int, SimilarText]) -> None:
    assert by_minhash([["a b c d"], ["a b c d e"]], threshold, 1, lambda done, total: None) == near


def test_a_text_similar_only_to_a_dropped_one_is_kept() -> None:
    chain = [["a b c d e"], ["b c d e f"], ["c d e f g"]]
    assert by_minhash(chain, 0.6, 1, lambda done, total: None) == {1: SimilarText(0, 4 / 6)}


VARIANTS = [str.upper, lambda text: f" {text}. ", lambda text: text.replace(" ", ", "), lambda text: text + " b"]


@settings(max_examples=40)
@given(given=st.lists(st.tuples(st.text("ab .", max_size=7), st.sampled_from(VARIANTS)), max_size=12))
async def test_no_kept_text_repeats_an_earlier_one(given: list[tuple[str, Callable[[str], str]]]) -> None:
    rows = [Persona(persona=variant(text)) for text, variant in given]
    context = SimpleNamespace(count=lambda *_, by=1: None, progress=lambda *_: None)
    found = dedup.function(Table(Persona, Persona.to_table(rows), "rows"), context, None, DedupParams(threshold=0.6, shingle=1))
    kept: list[int] = []
    async for output, row in found:
        number = sources_of(row)[0].row
        same = [each for each in kept if tokens(rows[each].persona) == tokens(rows[number].persona) != []]
        if output == "kept":
            assert row == rows[number]
            assert not same
            kept.append(number)
        else:
            assert row.duplicate_of in kept
            assert (row.input_row, row.text) == (number, rows[number].persona)
            assert row.similarity >= 0.6
            assert (row.kind == "exact", row.duplicate_of) == (True, same[0]) if same else row.kind == "near"


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_minhash_proposes_95_percent_of_pairs_at_the_threshold(threshold: float) -> None:
    number, rows = bands(threshold)
    assert number * rows <= 128
    assert 1 - (1 - threshold**rows) ** number >= 0.95


class Vectors:
    """An encoder that knows the vectors of the texts `0`, `1`, ..."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.vectors[[int(text) for text in texts]]


@pytest.mark.parametrize("block", [1, 7, 1000])
async def test_comparing_in_blocks_gives_the_same_result_as_one_by_one(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_BLOCK", block)
    encoder = Vectors(np.random.default_rng(0).normal(size=(120, 3)))
    similar = np.round(encoder.vectors.astype(float) @ encoder.vectors.T.astype(float), 5)
    expected: dict[int, int] = {}
    for place in range(1, 120):
        kept = [each for each in range(place) if each not in expected]
        best = max(kept, key=lambda each: similar[place, each])
        if similar[place, best] >= 0.9:
            expected[place] = best
    found = await by_embedding([str(place) for place in range(120)], 0.9, encoder, lambda done, total: None)  # type: ignore[arg-type]
    assert {place: each.place for place, each in found.items()} == expected
    assert min(each.similarity for each in found.values()) >= 0.9


# -- decontaminate ----------------------------------------------------------------------------------------------------


@ray
def test_rows_that_share_words_with_a_reference_are_separated_with_both_texts(registry: Registry) -> None:
    write("problems.jsonl", problem(APPLES), problem(LEAKED), problem("What is 3 + 4?"), problem("What is 3 - 4?"))
    write("tests.jsonl", {"persona": "unlike all others"}, {"persona": TRAINS}, {"persona": "what is 3 - 4"})
    types = {"problems": "MathProblem", "tests": "Persona"}
    run_ok(pipeline("decontaminate", {"rows": "problems", "reference": "tests"}, types), registry)
    assert ask(registry, 'select question from "demo/step.clean" order by row') == [(APPLES,), ("What is 3 + 4?",)]
    thirteen = "a train leaves the station at noon with 90 passengers and stops in"
    assert ask(registry, 'select * exclude row from "demo/step.contaminated" order by row') == [
        (1, LEAKED, thirteen, 1, TRAINS),
        (3, "What is 3 - 4?", "what is 3 - 4", 2, "what is 3 - 4"),
    ]
    assert ask(registry, "select type from datasets where name = 'demo/step.clean'") == [("MathProblem",)]
    # All rows are in an output; the reference row was only compared with them.
    assert ask(registry, "select rows_in, filtered, unused from internal.step_runs") == [(7, 0, 1)]
    assert ask(registry, "select slice, value from metrics where metric = 'rows' order by 1") == [
        ("clean", 2),
        ("contaminated", 2),
    ]
    assert ask(
        registry, "select child_row, parent, parent_row from row_lineage where child = 'demo/step.contaminated' order by all"
    ) == [(0, "demo/problems", 1), (0, "demo/tests", 1), (1, "demo/problems", 3), (1, "demo/tests", 2)]


@ray
def test_common_instructions_can_be_ignored(registry: Registry) -> None:
    rule = " Give the result as your final answer. Do not include units or any other words."
    write("problems.jsonl", problem(f"How many apples?{rule}{rule}"), problem(f"{TRAINS}.{rule}"))
    write("tests.jsonl", problem(f"{TRAINS}.{rule}"), problem(f"How many pears?{rule}"))
    types = {"problems": "MathProblem", "tests": "MathProblem"}
    document = json.loads(pipeline("decontaminate", {"rows": "problems", "reference": "tests"}, types))
    ignored = {"ignore": ["give the result as your final answer", rule]}
    document["steps"]["cut"] = {**document["steps"]["step"], "with": ignored}
    run_ok(json.dumps(document), registry)
    assert ask(registry, 'select input_row, reference_row from "demo/step.contaminated" order by row') == [(0, 0), (1, 0)]
    assert ask(registry, 'select input_row, reference_row from "demo/cut.contaminated"') == [(1, 0)]


def shared(row: str | list[str], *references: str | list[str], ngram: int = 13, shortest: int = 5) -> str | None:
    """The words that a row shares with the references."""

    def passages(texts: str | list[str]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(found) for text in ([texts] if isinstance(texts, str) else texts) if (found := tokens(text)))

    found = Index.of([passages(each) for each in references], ngram, shortest).find(passages(row))
    return found.ngram if found else None


def test_thirteen_words_are_enough_and_twelve_are_not() -> None:
    twelve = "one two three four five six seven eight nine ten eleven twelve"
    assert shared(f"x {twelve} thirteen y", f"z {twelve}, Thirteen! and more") == f"{twelve} thirteen"
    assert shared(f"x {twelve} y", f"{twelve} and more") is None
    assert shared(f"x {twelve} y", f"z {twelve} and more", ngram=12) == twelve


def test_symbols_do_not_count_as_words_of_an_ngram() -> None:
    formula = "sin^2(x) + cos^2(x) = 1"
    assert len(tokens(formula)) > 13
    assert shared(f"Why is {formula} for all x?", f"Show that {formula} holds, and what follows from it for tan(x)?") is None


def test_ngrams_do_not_cross_fields() -> None:
    assert shared("a b c d e f g", "a b c d e f g", ngram=6) == "a b c d e f"
    assert shared(["a b c", "d e f g"], "a b c d e f g", ngram=6) is None
    assert shared("a b c d e f g", ["a b c", "d e f g"], ngram=6) is None


def test_a_short_reference_counts_only_as_a_whole() -> None:
    reference = "How many eggs are left?"
    assert shared("Tell me: how many eggs are left over there", reference) == "how many eggs are left"
    assert shared("how many eggs are", reference) is None
    assert shared("so how many eggs are left", "how many eggs are left in the box") is None
    assert shared("What is 12 + 3 * 4?", "what is 12 - 3 * 4") is None


def test_a_very_short_text_counts_only_if_whole_rows_are_equal() -> None:
    assert shared("Eggs left?", "eggs left") == "eggs left"
    assert shared("How many eggs left?", "eggs left") is None
    assert shared(["A question of some kind", "72"], ["Some other question", "72"]) is None
    assert shared("?!", "...") is None


@settings(max_examples=100)
@given(
    row=st.lists(st.sampled_from("abc"), max_size=12),
    references=st.lists(st.lists(st.sampled_from("abc"), max_size=12), max_size=3),
    ngram=st.integers(2, 8),
)
def test_a_row_is_contaminated_exactly_if_it_shares_words(row: list[str], references: list[list[str]], ngram: int) -> None:
    def has(reference: list[str]) -> bool:
        size = ngram if len(reference) >= ngram else len(reference)
        runs = [reference[start : start + size] for start in range(len(reference) - size + 1)]
        inside = any(row[start : start + size] in runs for start in range(len(row) - size + 1))
        return row == reference if size < min(4, ngram) else inside

    expected = any(has(reference) for reference in references if reference)
    assert (shared(" ".join(row), *map(" ".join, references), ngram=ngram, shortest=4) is not None) == expected
