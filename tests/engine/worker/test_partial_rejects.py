"""An operator may reject one of the outputs of a row; the row continues, and the reason is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, run_text, texts, words

pytestmark = pytest.mark.usefixtures("in_process")


def run_thirds(registry: Registry, server: ChatServer, **more: bool) -> object:
    words("a", "b")
    return run_text(
        f"{{name: demo, models: {{teacher: {server.model(retries=0)}}}, datasets: {{words: {{type: Word, path: words.jsonl}}}},"
        " steps: {parts: {op: thirds, in: words}}}",
        registry,
        **more,
    )


def test_the_row_continues_and_the_reason_is_recorded(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: "no" if prompt == "1 a" or "b" in prompt else prompt
    result = run_thirds(registry, chat_server)
    assert result.state == "succeeded", result.error
    assert texts(registry, "demo/parts") == ["0 a", "2 a"]
    assert ask(registry, "select parent_row, reason from rejects order by 1, 2") == [
        (0, "part 1: the answer is no"),
        *[(1, f"part {part}: the answer is no") for part in range(3)],
    ]
    # No row was rejected as a whole: the second one gave no output.
    [step] = result.steps
    assert (step.record.rejected, step.record.filtered, step.partial) == (0, 1, 4)
    assert run_thirds(registry, chat_server).steps[0].partial == 4


def test_retrying_rejects_repeats_only_what_failed(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: "no" if prompt == "1 a" else prompt
    run_thirds(registry, chat_server)
    asked = len(chat_server.requests)
    result = run_thirds(registry, chat_server, retry_rejects=True)
    assert result.steps[0].record.outcome == "ran"
    assert len(chat_server.requests) == asked  # its answer is there, and leads to the same


def test_a_retried_row_is_counted_once(registry: Registry, chat_server: ChatServer) -> None:
    Path("problems.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    document = {
        "name": "demo",
        "models": {"teacher": json.loads(chat_server.model(retries=0))},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {"cot": {"op": "regenerate_cot", "in": "problems", "max_reject_ratio": 1}},
    }
    chat_server.finish_reason = "length"
    run_text(json.dumps(document), registry)
    assert ask(registry, "select slice, value from metrics") == [("cut off", 1)]
    chat_server.finish_reason, chat_server.answer = "stop", lambda prompt, seen: "\\boxed{1}"
    run_text(json.dumps(document), registry, retry_rejects=True)
    assert ask(registry, "select slice, value from metrics where version = 2") == [("correct", 1)]
