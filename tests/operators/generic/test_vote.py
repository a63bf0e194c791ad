"""vote: the answer on which most samples of a question agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask
from tests.operators.generic.steps import made, metrics, rows, run_ok, step, wrong

pytestmark = pytest.mark.usefixtures("in_process", "workdir")

SAMPLE = {"question": "str", "answer": "str?", "sample": "int"}
BY = {"by": "question", "answer": "answer"}


def samples(**given: list[str | None]) -> None:
    """Write samples; those of the questions alternate."""
    every = [(number, question, answer) for question, answers in given.items() for number, answer in enumerate(answers)]
    rows(
        *(
            {"question": question, "answer": answer, "sample": number}
            for number, question, answer in sorted(every, key=lambda each: each[0])
        )
    )


def voted(registry: Registry, output: str = "agreed") -> list[tuple[Any, ...]]:
    return made(registry, "question, answer, sample, votes, round(share, 2)", f"demo/step.{output}")


def test_most_votes_win_and_all_who_agree_are_sources(registry: Registry) -> None:
    samples(p=["Paris", "Lyon", "paris.", "The Paris"], q=["x", None, "y", " "], r=["1", "2", "2", "2"], s=[None, ""])
    run_ok(step("vote", row_type=SAMPLE, **BY), registry)
    assert voted(registry) == [("p", "Paris", 0, 3, 0.75), ("r", "2", 1, 3, 0.75)]
    assert voted(registry, "disagreed") == [("q", "x", 0, 1, 0.25)]
    parents = ask(registry, "select child_row, parent_row from row_lineage where child = 'demo/step.agreed' order by 1, 2")
    assert [[p for child, p in parents if child == row] for row in (0, 1)] == [[0, 8, 11], [6, 10, 13]]
    found = metrics(registry)
    assert (found["questions agreed"], found["questions tie"], found["questions no answer"]) == (2, 1, 1)
    assert (found["samples"], found["empty_answers"]) == (14, 4)


@pytest.mark.parametrize(("at_least", "agreed"), [(0.75, ["p", "r"]), (0.76, ["r"]), (1.0, ["r"]), (3, ["p", "r"]), (4, ["r"])])
def test_fewer_votes_than_at_least_disagree(registry: Registry, at_least: float, agreed: list[str]) -> None:
    samples(p=["a", "b", "a", "a"], r=["1", "1", "1", "1"])
    run_ok(step("vote", row_type=SAMPLE, **BY, at_least=at_least), registry)
    assert [each[0] for each in voted(registry)] == agreed
    assert metrics(registry).get("questions too few", 0) == 2 - len(agreed)


def test_equal_numbers_agree_under_math(registry: Registry) -> None:
    samples(p=["0.5", "\\frac{1}{2}", "2", "#### 1/2"])
    run_ok(step("vote", row_type=SAMPLE, **BY, equivalence="math"), registry)
    assert voted(registry) == [("p", "0.5", 0, 3, 0.75)]
    run_ok(step("vote", row_type=SAMPLE, **BY, equivalence="exact"), registry)
    assert metrics(registry)["questions tie"] == 1


def test_answers_of_the_same_meaning_agree_under_embedding(registry: Registry) -> None:
    samples(p=["the United States", "a banana", "United States of America"])
    text = step("vote", row_type=SAMPLE, **BY, equivalence="embedding", min_similarity=0.8)
    encoder = "models: {encoder: {provider: sentence-transformers, model: all-minilm-l6-v2}, model"
    run_ok(text.replace("models: {model", encoder), registry)
    assert voted(registry) == [("p", "the United States", 0, 2, 0.67)]
    assert ask(registry, "select count(*) from row_lineage where child = 'demo/step.agreed'") == [(2,)]


def test_options_are_named_by_letter_or_text(registry: Registry) -> None:
    kind = {**SAMPLE, "options": "list[str]", "topic": "str"}
    answers = ["B", "Lyon", "(a)", "none of them", "none of them", "none of them"]
    rows(
        *(
            {"question": "q", "topic": "t", "answer": each, "sample": n, "options": ["Paris", "Lyon"]}
            for n, each in enumerate(answers)
        )
    )
    run_ok(step("vote", row_type=kind, by=["topic", "question"], answer="answer", options="options"), registry)
    assert voted(registry) == [("q", "B", 0, 2, 0.33)]


def test_numbers_vote_as_texts(registry: Registry, chat_server: ChatServer) -> None:
    kind = {"question": "str", "n": "int?"}
    rows(*({"question": "q", "n": each} for each in (3, 4, 3, None)))
    run_ok(step("vote", row_type=kind, by=["question"], answer="n"), registry)
    assert made(registry, "n, votes", "demo/step.agreed") == [(3, 2)]


@pytest.mark.parametrize(
    ("params", "at", "said"),
    [
        ({"by": "questoin", "answer": "answer"}, '"questoin"', "by: Row has no field 'questoin'; did you mean 'question'?"),
        ({"by": ["question", "x"], "answer": "answer"}, '"x"]', "by: Row has no field 'x'"),
        ({"by": [], "answer": "answer"}, "[]", "by: name the fields"),
        ({"by": "question", "answer": "question"}, '"question"', "answer: 'question' names the question, too"),
        ({**BY, "at_least": 1}, "1", "at_least: give at least 2 samples, or a share"),
        ({**BY, "at_least": 1.5}, "1.5", "at_least: 1.5 is neither a share"),
        ({**BY, "equivalence": "same"}, '"same"', "'exact', 'qa', 'math' or 'embedding'"),
        ({**BY, "options": "answer"}, '"answer"', "options: field 'answer' is str?; expected list[str]"),
        ({"by": "question"}, 'by: "question"', "vote needs the parameter 'answer'"),
    ],
)  # fmt: skip
def test_bad_parameters_have_a_place(params: dict[str, Any], at: str, said: str) -> None:
    found = wrong("vote", row_type=SAMPLE, **params)
    assert any(place.startswith(at) and said in text for place, text in found.items()), found


def test_a_taken_name_and_a_missing_encoder_are_found() -> None:
    found = wrong("vote", row_type={**SAMPLE, "votes": "int"}, **BY, equivalence="embedding")
    assert any("Row has a field 'votes' already" in text for text in found.values())
    assert any("vote needs a model as 'encoder'" in text for text in found.values())
    assert Path("rows.jsonl").exists()
