"""to_chat and to_pairs: rows of any type become training examples."""

from __future__ import annotations

from typing import Any

import pytest

from registry import Registry
from tests.engine.run_pipelines import ask, run_text
from tests.operators.generic.steps import made, metrics, reasons, rows, run_ok, step, wrong

pytestmark = pytest.mark.usefixtures("in_process", "workdir")

TURNS = [
    {"role": "system", "content": "{{ persona }}"},
    {"role": "user", "content": "{{ question }}"},
    {"role": "assistant", "content": "It is {{ n }}."},
]


def test_a_row_becomes_an_example(registry: Registry) -> None:
    rows({"question": "q", "persona": "Ada", "n": 4}, {"question": "r", "n": 5}, {"question": " ", "n": 5})
    run_ok(step("to_chat", messages=TURNS), registry)
    assert made(registry, "[(m.role, m.content) for m in prompt], [(m.role, m.content) for m in completion]") == [
        ([("system", "Ada"), ("user", "q")], [("assistant", "It is 4.")]),
        ([("user", "r")], [("assistant", "It is 5.")]),
    ]
    assert reasons(registry) == {2: "the user's message is empty for this row"}
    assert ask(registry, "select type from datasets where name = 'demo/step'") == [("SFTExample",)]
    assert ask(registry, "select child_row, parent_row from row_lineage where child = 'demo/step' order by 1") == [
        (0, 0),
        (1, 1),
    ]


@pytest.mark.parametrize(
    ("messages", "at", "said"),
    [
        ("{{ question }}", '"{{ question }}"', "messages: expected a list of {role: ..., content: ...}"),
        (TURNS[1:2], '"user"', "the last turn is the assistant's, and this one is the user's"),
        (TURNS[2:], "[{", "there is no turn of the user"),
        ([TURNS[1], {"role": "assistant", "content": "yes"}], '"yes"', "the turn to learn: it is the same for every row"),
        ([TURNS[1], {"role": "assistant", "content": "{{ x }}"}], '"{{ x }}"', "Row has no field 'x'"),
        ([TURNS[1], {"role": "assistant", "content": "{n}"}], '"{n}"', "write {{ n }} instead of {n}"),
        ([TURNS[1], TURNS[0], TURNS[2]], '"system"', "the system speaks first, or not at all"),
        ([TURNS[1], {"role": "assistant", "text": "{{ n }}"}], '{"role": "assistant"', "a turn is {role: ..., content: ...}"),
    ],
)
def test_messages_that_are_not_an_example_are_reported_with_their_place(messages: Any, at: str, said: str) -> None:
    found = wrong("to_chat", messages=messages)
    assert any(place.startswith(at) and said in text for place, text in found.items()), found


def test_reasoning_and_tools_go_into_the_example(registry: Registry) -> None:
    typed = {"question": "str", "n": "int", "thoughts": "str?", "functions": "str?"}
    tools = '[{"type": "function", "function": {"name": "add"}}]'
    rows(
        {"question": "q", "n": 4, "thoughts": "2 and 2", "functions": tools},
        {"question": "r", "n": 5},
        {"question": "s", "n": 6, "functions": "add"},
    )
    run_ok(step("to_chat", row_type=typed, messages=TURNS[1:], thinking="thoughts", tools="functions"), registry)
    assert made(registry, "completion[1].content, completion[1].thinking, tools") == [
        ("It is 4.", "2 and 2", tools),
        ("It is 5.", None, None),
    ]
    assert reasons(registry)[2].startswith("tools is not JSON")
    found = wrong("to_chat", messages=TURNS, thinking="n", tools="functoins")
    assert any("thinking: field 'n' is int?; expected str" in text for text in found.values())
    assert any("tools: Row has no field 'functoins'" in text for text in found.values())


# -- to_pairs ---------------------------------------------------------------------------------------------------------

PAIR = {"question": "str", "good": "str?", "bad": "str?", "preferred": "(a | b | tie)?"}


def texts(registry: Registry) -> list[tuple[Any, ...]]:
    return made(registry, "prompt[1].content, chosen[1].content, rejected[1].content")


def lineage(registry: Registry) -> list[tuple[Any, ...]]:
    return ask(registry, "select child_row, parent_row from row_lineage where child = 'demo/step' order by 1, 2")


def test_two_texts_of_a_row_make_a_pair(registry: Registry) -> None:
    rows(
        {"question": "q", "good": "4", "bad": "5"},
        {"question": "q", "good": "4", "bad": "4"},
        {"question": "q", "good": "4"},
        {"question": "r", "good": "6", "bad": "7"},
    )
    run_ok(
        step("to_pairs", row_type=PAIR, prompt="Solve: {{ question }}", chosen="good", rejected="It is {{ bad }}."), registry
    )
    assert texts(registry) == [
        ("Solve: q", "4", "It is 5."),
        ("Solve: q", "4", "It is 4."),
        ("Solve: q", "4", "It is ."),
        ("Solve: r", "6", "It is 7."),
    ]


def test_texts_can_be_fields_and_what_makes_no_pair_is_counted(registry: Registry) -> None:
    rows(
        {"question": "q", "good": "4", "bad": "5"},
        {"question": "q", "good": "4", "bad": "4"},
        {"question": "q", "good": "4"},
        {"question": "r", "good": "6", "bad": "7"},
    )
    run_ok(step("to_pairs", row_type=PAIR, prompt="question", chosen="good", rejected="bad"), registry)
    assert texts(registry) == [("q", "4", "5"), ("r", "6", "7")]
    assert lineage(registry) == [(0, 0), (1, 3)]
    found = metrics(registry)
    assert (found["pairs"], found["dropped equal texts"], found["dropped empty text"]) == (2, 1, 1)


def test_a_comparison_says_which_text_is_better(registry: Registry) -> None:
    verdicts = ["a", "b", "tie", None]
    rows(*({"question": "q", "good": "A", "bad": "B", "preferred": each} for each in verdicts))
    run_ok(step("to_pairs", row_type=PAIR, prompt="{{ question }}", a="good", b="bad", preferred="preferred"), registry)
    assert texts(registry) == [("q", "A", "B"), ("q", "B", "A")]
    assert lineage(registry) == [(0, 0), (1, 1)]
    found = metrics(registry)
    assert (found["dropped tie"], found["dropped neither a nor b preferred"]) == (1, 1)


SCORED = {"question": "str", "answer": "str?", "score": "float?"}


def test_the_best_and_the_worst_of_a_group_make_a_pair(registry: Registry) -> None:
    given: list[tuple[str, str | None, float | None]] = [
        ("q", "bad", 1), ("r", "x", 3), ("q", "good", 5), ("q", "also good", 5), ("s", "y", 2), ("s", "z", 2.5), ("t", "only", 4),
        ("q", "no score", None), ("u", "same", 1), ("u", "same", 5), ("v", None, 1), ("v", "w", 5), ("r", "best", 4),
    ]  # fmt: skip
    rows(*({"question": question, "answer": answer, "score": score} for question, answer, score in given))
    group = {"prompt": "{{ question }}", "group": "question", "score": "score", "response": "answer", "margin": 1}
    run_ok(step("to_pairs", row_type=SCORED, **group), registry)
    assert texts(registry) == [("q", "good", "bad"), ("r", "best", "x")]
    assert lineage(registry) == [(0, 0), (0, 2), (1, 1), (1, 12)]
    found = {name: value for name, value in metrics(registry).items() if value}
    assert found == {
        "pairs": 2,
        "dropped no margin": 1,
        "dropped one row in the group": 1,
        "dropped no score": 1,
        "dropped equal texts": 1,
        "dropped empty text": 1,
    }


def test_rows_of_a_group_with_other_prompts_make_no_pair(registry: Registry) -> None:
    rows(*({"question": f"q{score}", "answer": str(score), "score": score} for score in (1, 5)))
    group = {"prompt": "{{ question }}", "group": "score", "score": "score", "response": "answer"}
    run_ok(step("to_pairs", row_type={**SCORED, "g": "int?"}, **{**group, "group": "g"}), registry)
    assert metrics(registry)["dropped different prompts in the group"] == 1


def test_pairs_as_labelled_examples(registry: Registry) -> None:
    rows({"question": "q", "good": "4", "bad": "5"})
    run_ok(step("to_pairs", row_type=PAIR, prompt="question", chosen="good", rejected="bad", labelled=True), registry)
    assert made(registry, "completion[1].content, label") == [("4", True), ("5", False)]
    assert ask(registry, "select type from datasets where name = 'demo/step'") == [("LabelledExample",)]


def test_a_conversation_in_a_field_is_a_prompt(registry: Registry) -> None:
    kind = {"turns": "list[Turn]", "good": "str", "bad": "str"}
    rows({"turns": [{"role": "user", "content": "hi"}], "good": "4", "bad": "5"})
    text = step("to_pairs", row_type=kind, prompt="turns", chosen="good", rejected="bad")
    text = text.replace("types: {Row:", "types: {Turn: {role: str, content: str}, Row:")
    assert run_text(text, registry).state == "succeeded"
    assert texts(registry) == [("hi", "4", "5")]


ROW = {"question": "str", "good": "str", "bad": "str", "n": "int", "tags": "list[str]"}
PROMPT = {"prompt": "{{ question }}"}
GROUP = {**PROMPT, "group": "question", "score": "n", "response": "good"}


@pytest.mark.parametrize(
    ("params", "at", "said"),
    [
        (PROMPT, 'prompt: "{{', "say where the pairs come from"),
        ({**PROMPT, "chosen": "good"}, '"good"', "chosen: rejected is missing"),
        ({**PROMPT, "chosen": "good", "rejected": "bda"}, '"bda"', "rejected: Row has no field 'bda'; did you mean 'bad'?"),
        ({**PROMPT, "chosen": "good", "rejected": "{{ bda }}"}, '"{{ bda }}"', "Row has no field 'bda'; did you mean 'bad'?"),
        ({**PROMPT, "chosen": "good", "rejected": "tags"}, '"tags"', "field 'tags' is list[str]; expected a text"),
        ({**PROMPT, "chosen": "good", "rejected": "bad", "score": "n"}, '"n"', "score: it belongs to other pairs than chosen"),
        ({**PROMPT, "chosen": "good", "rejected": "bad", "margin": 1}, "1", "margin: it is for groups with a score"),
        ({"prompt": "{question}", "chosen": "good", "rejected": "bad"}, '"{question}"', "write {{ question }} instead"),
        ({"prompt": "hello there", "chosen": "good", "rejected": "bad"}, '"hello there"', "it is the same for every row"),
        ({**PROMPT, "chosen": "good", "rejected": "good"}, '"good"', "chosen and rejected are the same, 'good'"),
        ({**GROUP, "score": "good"}, '"good"', "score: field 'good' is str; expected a number"),
        ({**GROUP, "group": ["questoin"]}, '"questoin"]', "group: Row has no field 'questoin'"),
        ({**GROUP, "group": []}, "[]", "group: name the fields"),
        ({**GROUP, "margin": -1}, "-1", "greater than or equal to 0"),
        ({**PROMPT, "a": "good", "b": "bad", "preferred": "n"}, '"n"', "preferred: field 'n' is int; expected a | b | tie"),
    ],
)  # fmt: skip
def test_parameters_that_make_no_pairs_have_a_place(params: dict[str, Any], at: str, said: str) -> None:
    found = wrong("to_pairs", row_type=ROW, **params)
    assert any(place.startswith(at) and said in text for place, text in found.items()), found
