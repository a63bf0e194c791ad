"""judge: scores and labels by a rubric, with reasons, from one vote or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask
from tests.operators.generic.steps import made, metrics, reasons, rows, run_ok, step, wrong

pytestmark = pytest.mark.usefixtures("in_process", "workdir")

RUBRIC = "How clear is it?\n\n{{ question }}"
SAMPLED = {"temperature": 1}


def verdict(value: Any, name: str = "score", reason: str = "because") -> str:
    return json.dumps({"reason": reason, name: value})


def test_a_row_gets_a_score_and_its_reason(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "good"}, {"question": "bad"}, {"question": "odd"})
    scores = {"good": 5, "bad": 1}
    chat_server.answer = lambda prompt, seen: next(
        (verdict(score) for part, score in scores.items() if part in prompt), verdict(6)
    )
    run_ok(step("judge", chat_server, rubric=RUBRIC), registry)
    assert made(registry, "question, score, reason") == [("good", 5, "because"), ("bad", 1, "because")]
    assert "Input should be 1, 2, 3, 4 or 5" in reasons(registry)[2]
    assert '"score": 6' in reasons(registry)[2]
    assert "a whole number from 1 (worst) to 5 (best)" in chat_server.prompts[0]
    held = chat_server.requests[0]["response_format"]["json_schema"]["schema"]["properties"]
    assert list(held) == ["reason", "score"], "the reason comes before the score"
    assert metrics(registry)["votes 5"] == 1


def test_labels_are_words_of_the_output(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "a"})
    chat_server.answer = lambda prompt, seen: verdict("wrong", "grade")
    run_ok(step("judge", chat_server, rubric=RUBRIC, labels=["wrong", "right"], into="grade"), registry)
    assert made(registry, "grade, grade_reason") == [("wrong", "because")]
    assert 'one of "wrong", "right"' in chat_server.prompts[0]


def test_several_votes_have_a_mean_and_a_spread(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "a"})
    given = [1, 4, 4, 5]
    count = iter(range(100))

    def answer(prompt: str, seen: int) -> str:
        if "How clear" not in prompt:
            return f"probe {next(count)}"
        return verdict(given[seen % 4], reason=f"vote {given[seen % 4]}")

    chat_server.answer = answer
    run_ok(step("judge", chat_server, SAMPLED, rubric=RUBRIC, votes=4), registry)
    [(score, why, spread, votes)] = made(registry, "score, reason, score_spread, score_votes")
    assert (score, why, votes) == (3.5, "vote 4", given)
    assert spread == pytest.approx(1.5)
    assert ask(registry, "select count(*), count(distinct call_id) from llm_calls where name = 'demo/step' and row = 0") == [
        (4, 4)
    ]


def test_the_label_of_most_votes_wins_and_votes_that_fail_are_left_out(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "a"})
    given = ["right", "maybe", "wrong", "right"]
    count = iter(range(100))

    def answer(prompt: str, seen: int) -> str:
        if "not the JSON" in prompt:
            return "no idea"
        return verdict(given[seen % 4]) if "How clear" in prompt else f"probe {next(count)}"

    chat_server.answer = answer
    run_ok(step("judge", chat_server, SAMPLED, rubric=RUBRIC, labels=["wrong", "right"], votes=4), registry)
    [(score, spread, votes)] = made(registry, "score, score_spread, score_votes")
    assert (score, votes) == ("right", ["right", "wrong", "right"])
    assert spread == pytest.approx(1 / 3)
    assert reasons(registry)[0].startswith("a vote failed: the answer is not a valid Verdict")
    assert metrics(registry)["votes_failed"] == 1


@pytest.mark.parametrize(
    ("params", "at", "said"),
    [
        ({"rubric": "good?"}, '"good?"', "rubric: it is the same for every row"),
        ({"rubric": "{question}"}, '"{question}"', "write {{ question }} instead of {question}"),
        ({"rubric": "{{ x }}"}, '"{{ x }}"', "Row has no field 'x'"),
        ({"rubric": RUBRIC, "scale": [5, 1]}, "[5, 1]", "scale: expected the lowest and the highest score"),
        ({"rubric": RUBRIC, "scale": [1]}, "[1]", "scale: expected the lowest and the highest score"),
        ({"rubric": RUBRIC, "scale": [0, 1000]}, "[0, 1000]", "scale: it has 1001 scores; the limit is 101"),
        ({"rubric": RUBRIC, "scale": [0, 0.5]}, "0.5]", "must be a whole number"),
        ({"rubric": RUBRIC, "scale": [1, 5], "labels": ["a", "b"]}, '["a", "b"]', "a verdict is either a number or a label"),
        ({"rubric": RUBRIC, "labels": ["a"]}, '["a"]', "labels: expected at least two labels"),
        ({"rubric": RUBRIC, "labels": ["a", "a"]}, '"a"]', "labels: 'a' is listed twice"),
        ({"rubric": RUBRIC, "labels": ["a", " "]}, '" "]', "labels: a label is empty"),
        ({"rubric": RUBRIC, "into": "n"}, '"n"', "Row has a field 'n' already"),
        ({"rubric": RUBRIC, "into": "row"}, '"row"', "reserved for the row number"),
        ({"scale": [1, 5]}, "scale: [1, 5]", "judge needs the parameter 'rubric'"),
    ],
)  # fmt: skip
def test_bad_parameters_have_a_place(params: dict[str, Any], at: str, said: str) -> None:
    found = wrong("judge", model=SAMPLED, **params)
    [text] = [text for place, text in found.items() if place.startswith(at)]
    assert said in text


def test_a_field_that_is_taken_by_the_reason_is_named() -> None:
    found = wrong("judge", row_type={"question": "str", "reason": "str"}, rubric=RUBRIC)
    assert any("has a field 'reason' already" in text for text in found.values())


def test_votes_need_a_model_that_samples() -> None:
    found = wrong("judge", model={"temperature": 0}, rubric=RUBRIC, votes=3)
    assert any("needs a model with a temperature above 0" in text for text in found.values())


def test_a_row_of_an_earlier_step_is_not_named_after_its_fields() -> None:
    steps = [
        "  first: {op: generate, in: rows, with: {prompt: '{{ question }}', keep: [question]}}",
        "  step: {op: judge, in: first, with: {rubric: '{{ questoin }}'}}",
    ]
    rows()
    Path("p.yaml").write_text(step("generate", None).partition("steps:")[0] + "steps:\n" + "\n".join(steps))
    with pytest.raises(
        PipelineError, match=r"p\.yaml:7:47: judge: rubric: the row has no field 'questoin'; did you mean 'quest"
    ):
        check(Path("p.yaml"))
