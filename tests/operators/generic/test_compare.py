"""compare: two texts in both orders, and how far the order decides."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask
from tests.operators.generic.steps import made, metrics, reasons, rows, run_ok, step, wrong

pytestmark = pytest.mark.usefixtures("in_process", "workdir")

PAIR = {"question": "str", "short": "str?", "long": "str?", "n": "int"}
RUBRIC = "Which is clearer?\n\n{{ question }}"


def pair(question: str, short: str | None = "S", long: str | None = "L") -> dict[str, Any]:
    return {"question": question, "short": short, "long": long, "n": 1}


def answer(prompt: str, seen: int) -> str:
    """Prefers the longer text; for a question about `first` the first one, and for `tie` neither."""
    found = re.search(r"<first>\n(.*)\n</first>", prompt)
    assert found
    question = prompt.partition("Which is clearer?\n\n")[2].splitlines()[0]
    better = "first" if question == "first" or (question == "long" and found[1] == "L") else "second"
    return json.dumps({"reason": f"{question} {better}", "better": "tie" if question == "tie" else better})


def test_both_orders_are_asked_and_must_agree(registry: Registry, chat_server: ChatServer) -> None:
    rows(pair("long"), pair("first"), pair("tie"), pair("same", "x", " x"), pair("none", None), pair("blank", "x", " "))
    chat_server.answer = answer
    run_ok(step("compare", chat_server, row_type=PAIR, a="short", b="long", rubric=RUBRIC), registry)
    assert made(registry, "question, preferred, reason") == [
        ("long", "b", "long second"),
        ("first", "tie", "a first (a): first first\nb first (b): first first"),
        ("tie", "tie", "tie second"),
        ("same", "tie", "the texts are equal"),
    ]
    assert len(chat_server.requests) == 6
    assert reasons(registry) == {4: "'short' is empty", 5: "'long' is empty"}
    found = metrics(registry)
    assert (found["orders agree"], found["orders differ"], found["equal_texts"]) == (2, 1, 1)
    assert (found["preferred b"], found["preferred tie"]) == (1, 3)
    assert found["order_agreement"] == pytest.approx(2 / 3)
    assert found["order_agreement_ci_low"] < 2 / 3 < found["order_agreement_ci_high"]
    assert found["first_position"] == pytest.approx(3 / 4), "first, first for `first`; first, second for `long`"
    assert found["first_position_ci_low"] < 3 / 4 < found["first_position_ci_high"]
    calls = ask(
        registry, "select row, count(distinct call_id) from llm_calls where name = 'demo/step' and row is not null group by 1"
    )
    assert sorted(calls) == [(0, 2), (1, 2), (2, 2)]


def test_an_answer_that_does_not_fit_rejects_the_row(registry: Registry, chat_server: ChatServer) -> None:
    rows(pair("long"))
    chat_server.answer = lambda prompt, seen: '{"reason": "x", "better": "both"}'
    run_ok(step("compare", chat_server, row_type=PAIR, a="short", b="long", rubric=RUBRIC), registry)
    assert "Input should be 'first', 'second' or 'tie'" in reasons(registry)[0]
    assert '"better": "both"' in reasons(registry)[0]


@pytest.mark.parametrize(
    ("params", "at", "said"),
    [
        ({"a": "shrt", "b": "long", "rubric": RUBRIC}, '"shrt"', "a: Row has no field 'shrt'; did you mean 'short'?"),
        ({"a": "short", "b": "n", "rubric": RUBRIC}, '"n"', "b: field 'n' is int; expected a text"),
        ({"a": "short", "b": "short", "rubric": RUBRIC}, '"short"', "a and b are both 'short'; name two fields"),
        ({"a": "short", "b": "long", "rubric": "{{ x }}"}, '"{{ x }}"', "rubric: Row has no field 'x'"),
        ({"a": "short", "b": "long", "rubric": "{question}"}, '"{question}"', "write {{ question }} instead of {question}"),
        ({"a": "short", "b": "long", "rubric": "{{ short }}?"}, '"{{ short }}?"', "it may not use 'short' here; both texts are shown"),
        ({"a": "short", "b": "long", "rubric": RUBRIC, "into": "n"}, '"n"', "Row has a field 'n' already"),
        ({"a": "short", "b": "long"}, 'a: "short"', "compare needs the parameter 'rubric'"),
    ],
)  # fmt: skip
def test_bad_parameters_have_a_place(params: dict[str, Any], at: str, said: str) -> None:
    found = wrong("compare", row_type=PAIR, **params)
    assert any(place.startswith(at) and said in text for place, text in found.items()), found
