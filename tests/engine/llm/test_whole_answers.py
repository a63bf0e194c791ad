"""Nothing that a server returns is lost: reasoning under all its names, tool calls, cached and reasoning tokens, who answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.llm.journal.serialization import decode_answer, encode_answer
from engine.llm.providers.chat_completions import completions
from engine.llm.types.completions import Completion, ToolCall, without_thinking
from engine.llm.types.errors import ModelError, RequestError
from engine.llm.types.model_spec import ModelSpec, Price
from engine.llm.types.requests import Request, as_messages

TOOLS = {"extra_body": {"tools": [{"type": "function"}]}}


def read(message: dict[str, Any], usage: dict[str, Any] | None = None, reason: str = "stop", **sampling: Any) -> Completion:
    """The completion in a response with one choice."""
    answer = {
        "model": "m-2026",
        "choices": [{"message": message, "finish_reason": reason}],
        "usage": usage or {"prompt_tokens": 10, "completion_tokens": 5},
    }
    asked = Request("http://x/v1", "m", as_messages("hello"), {"temperature": 0.0, "seed": None, "max_tokens": 99, **sampling})
    return completions(answer, [asked], 1.0).completions[0]


@pytest.mark.parametrize(
    "message",
    [
        {"content": "4", "reasoning_content": "2 and 2"},
        {"content": "4", "reasoning": "2 and 2"},
        {"content": "4", "thinking": "2 and 2"},
        {"content": "<think>2 and 2</think>4"},
        {"content": "<think>\n2 and 2\n</think>\n\n4"},
        {"content": "2 and 2\n</think>\n\n4"},
        {"content": "<thinking>2 and 2</thinking>4"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "2 and 2"}]}, {"type": "text", "text": "4"}]},
        {"content": [{"type": "thinking", "thinking": "2 and 2", "signature": "x"}, {"type": "text", "text": "4"}]},
        {"content": "4", "reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "2 and 2"}]},
        {
            "content": "4",
            "reasoning_details": [
                {"type": "reasoning.encrypted", "data": "x"},
                {"type": "reasoning.summary", "summary": "2 and 2"},
            ],
        },
        {"content": "4", "thinking_blocks": [{"type": "thinking", "thinking": "2 and 2", "signature": "x"}]},
    ],
)
def test_reasoning_is_kept_beside_the_answer(message: dict[str, Any]) -> None:
    found = read(message)
    assert (found.text, found.reasoning) == ("4", "2 and 2")


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("4", "4", None),
        ("a < b, and <think> is a tag", "a < b, and <think> is a tag", None),
        ("the tag </think> closes", "the tag </think> closes", None),
        ("<think>never closed", "", "never closed"),
        ("<think></think>4", "4", ""),
        ("<think>a</think>the tag </think> closes", "the tag </think> closes", "a"),
        ("<think>a</think>\n    indented", "    indented", "a"),
    ],
)
def test_where_reasoning_ends(text: str, answer: str, reasoning: str | None) -> None:
    assert without_thinking(text) == (answer, reasoning)


def test_answers_of_older_journals_are_read_as_new_ones() -> None:
    old = '{"text": "<think>2 and 2</think>4", "tokens_in": 3}'
    assert decode_answer(old) == Completion(text="4", reasoning="2 and 2", tokens_in=3)


@pytest.mark.parametrize("text", ["<think>2 and", "<think>2 and 2</think>", " ", ""])
def test_an_empty_answer_of_an_older_version_is_ignored(text: str) -> None:
    assert decode_answer(json.dumps({"text": text, "tokens_in": 3})) is None


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        # OpenAI: reasoning is part of completion_tokens, cached of prompt_tokens.
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 64},
                "completion_tokens_details": {"reasoning_tokens": 40},
            },
            (100, 64, 50, 40),
        ),
        # DeepSeek.
        ({"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64}, (100, 64, 5, 0)),
        # xAI, Gemini: reasoning is in the total only.
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "total_tokens": 145,
                "completion_tokens_details": {"reasoning_tokens": 40},
            },
            (100, 0, 45, 40),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}}, (10, 10, 5, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -1}}, (10, 0, 5, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None}, (10, 0, 5, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 99}}, (10, 0, 5, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": [1]}, (10, 0, 5, 0)),
    ],
)
def test_tokens_are_counted_as_they_are_billed(usage: dict[str, Any], counts: tuple[int, ...]) -> None:
    found = read({"content": "4"}, usage)
    assert (found.tokens_in, found.tokens_cached, found.tokens_out, found.tokens_reasoning) == counts


def test_several_answers_share_the_counts() -> None:
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in ("<think>aaaa</think>4", "5")]
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 12},
    }
    asked = Request("http://x/v1", "m", as_messages("hello"), {"temperature": 1.0, "seed": None, "max_tokens": 99})
    first, second = completions({"choices": choices, "usage": usage}, [asked, asked], 1.0).completions
    assert (first.tokens_in, first.tokens_cached, second.tokens_in, second.tokens_cached) == (10, 8, 0, 0)
    assert first.tokens_out + second.tokens_out == 20
    assert first.tokens_reasoning + second.tokens_reasoning <= 12
    assert first.tokens_reasoning > second.tokens_reasoning


def test_cached_tokens_have_their_own_price() -> None:
    spec = ModelSpec(provider="openai", model="m", price=Price(input=1.0, cached_input=0.1, output=2.0))
    assert spec.cost(1_000_000, 500_000, 400_000) == pytest.approx(0.6 + 0.04 + 1.0)
    assert spec.cost(10, 0, 99) == pytest.approx(10 * 0.1 / 1e6)
    with pytest.raises(ValueError, match="cached_input is more than input"):
        Price(input=1.0, cached_input=2.0)


def test_tool_calls_are_part_of_an_answer_where_tools_were_offered() -> None:
    message = {
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
    }
    found = read(message, reason="tool_calls", **TOOLS)
    assert found.tool_calls == (ToolCall(id="c1", name="add", arguments='{"a": 1}'),)
    assert (found.text, found.finish_reason, found.served_by) == ("", "tool_calls", "m-2026")
    assert decode_answer(encode_answer(found)) == found
    with pytest.raises(RequestError, match="called a tool instead of answering"):
        read(message, reason="tool_calls")


@pytest.mark.parametrize(
    "calls", [None, [], [{"function": {}}], [{"function": None}], "text", [{"function": {"name": "a\udc00", "arguments": ""}}]]
)
def test_tool_calls_that_cannot_be_read_are_refused(calls: Any) -> None:
    try:
        found = read({"content": "", "tool_calls": calls}, reason="tool_calls", **TOOLS)
    except ModelError:
        return
    assert found.tool_calls == ()


def test_arguments_that_a_server_parsed_become_json_again() -> None:
    message = {"content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    [call] = read(message, reason="tool_calls", **TOOLS).tool_calls
    assert json.loads(call.arguments) == {"a": 1}
