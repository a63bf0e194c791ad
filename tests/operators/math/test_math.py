"""Solving problems again keeps correct solutions, marks wrong ones, and rejects those that were cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, run_text

pytestmark = pytest.mark.usefixtures("in_process")


def run_cot(
    registry: Registry, server: ChatServer, answers: list[str], model: dict[str, Any] | None = None, **settings: Any
) -> Any:
    """Solve problems with these gold answers."""
    rows = [
        {"question": f"q{place}", "answer": answer, "source": "s", "id": f"i{place}"} for place, answer in enumerate(answers)
    ]
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "name": "demo",
        "models": {"teacher": json.loads(server.model(**(model or {})))},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {
            "cot": {"op": "regenerate_cot", "in": "problems", "with": settings, "max_reject_ratio": 1},
            "rows": {"op": "to_sft", "in": "cot.solved", "with": {"system": "You solve problems."}},
        },
    }
    return run_text(json.dumps(document), registry)


def test_the_first_right_sample_is_kept(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: ["\\boxed{1}", "\\boxed{2}", "\\boxed{3}"][seen]
    run_cot(registry, chat_server, ["2"], attempts=3)
    assert ask(registry, 'select solution, predicted, verdict, stage, source, id from "demo/cot.solved"') == [
        ("\\boxed{2}", "2", "correct", 1, "s", "i0")
    ]
    assert len(chat_server.requests) == 2
    assert ask(registry, "select metric, slice, value from metrics order by 2") == [
        ("samples", "correct", 1),
        ("samples", "wrong", 1),
    ]
    # The wrong sample has no row.
    assert ask(registry, "select row, response from llm_calls order by row") == [(0, "\\boxed{2}"), (None, "\\boxed{1}")]


def test_raising_the_number_of_attempts_requests_only_the_new_ones(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: "\\boxed{0}"
    run_cot(registry, chat_server, ["1", "2"], attempts=1)
    assert len(chat_server.requests) == 2
    run_cot(registry, chat_server, ["1", "2"], attempts=3)
    assert len(chat_server.requests) == 6


def test_problems_without_a_correct_sample_are_unsolved_with_their_last_solution(
    registry: Registry, chat_server: ChatServer
) -> None:
    chat_server.answer = lambda prompt, seen: "I do not know" if "q1" in prompt else "\\boxed{5}"
    run_cot(registry, chat_server, ["1", "2"], attempts=2)
    assert ask(registry, 'select solution, predicted, verdict, answer from "demo/cot.unsolved" order by row') == [
        ("\\boxed{5}", "5", "wrong", "1"),
        ("I do not know", None, "unparsed", "2"),
    ]


def test_a_cut_off_answer_is_rejected_even_if_it_contains_the_right_number(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.finish_reason = "length"
    chat_server.answer = lambda prompt, seen: "\\boxed{1}"
    run_cot(registry, chat_server, ["1"], model={"max_tokens": 7})
    assert ask(registry, "select reason from rejects") == [("the answer was cut off at max_tokens=7",)]


def test_the_gold_answer_is_never_shown_and_the_prompt_can_be_replaced(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: "\\boxed{987654}"
    run_cot(registry, chat_server, ["987654"])
    assert "987654" not in json.dumps(chat_server.requests)
    run_cot(registry, chat_server, ["987654"], prompt="Short: {{ question }}")
    assert chat_server.prompts[-1] == "Short: q0"


def test_solutions_become_conversations(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: " \\boxed{1} "
    run_cot(registry, chat_server, ["1"])
    [(prompt, completion)] = ask(registry, 'select prompt, completion from "demo/rows"')
    assert [(turn["role"], turn["content"]) for turn in prompt] == [("system", "You solve problems."), ("user", "q0")]
    assert [(turn["role"], turn["content"]) for turn in completion] == [("assistant", "\\boxed{1}")]
