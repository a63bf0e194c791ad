"""A model that turns out to reason gets room for its reasoning, unless the pipeline sets max_tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.llm.chat import current_log
from engine.llm.types.answer_limit import limit_of
from engine.llm.types.completions import Completion
from engine.llm.types.errors import BudgetError, RequestError
from engine.llm.types.model_spec import ModelSpec
from tests.chat_server import ChatServer, error, message
from tests.engine.conftest import Make

THOUGHTS = 700
"""The tokens of the reasoning: more than the default allows."""


def reasoning(body: dict[str, Any]) -> dict[str, Any]:
    """The answer of a model that reasons, cut off at the request's limit."""
    most, count = body["max_tokens"], body.get("n", 1)
    done = most > THOUGHTS
    said = {"role": "assistant", "content": "4" if done else "", "reasoning_content": "2 and 2 ..."}
    out = THOUGHTS + 1 if done else most
    return {
        "choices": [{"message": said, "finish_reason": "stop" if done else "length"}] * count,
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": out * count,
            "completion_tokens_details": {"reasoning_tokens": (out - done) * count},
        },
    }


def sent(server: ChatServer) -> list[int]:
    return [request["max_tokens"] for request in server.requests]


async def test_an_answer_that_the_default_cuts_off_while_it_reasons_is_asked_for_again(
    model: Make, chat_server: ChatServer
) -> None:
    chat_server.reply = reasoning
    teacher = model(retries=0, price={"output": 1.0})
    first = await teacher.chat("2 + 2?")
    assert (first.text, first.finish_reason) == ("4", "stop")
    await teacher.chat("3 + 3?")
    assert sent(chat_server) == [512, 8192, 8192]
    [note] = teacher.notes
    assert "reasons, and max_tokens is not set: its answers may have 8,192 tokens" in note
    # The answer that was cut off is paid for, and noted beside the answers.
    assert [done.tokens_out for _, done, _ in current_log.get().discarded] == [512]
    assert teacher._model._gate.spent.usd == pytest.approx((512 + 2 * (THOUGHTS + 1)) / 1e6)


async def test_keys_keep_the_default_and_the_next_run_knows_the_model(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = reasoning
    await model().chat("2 + 2?")
    await model(max_tokens=512).chat("2 + 2?")
    again = model()
    await again.chat("3 + 3?")
    assert sent(chat_server) == [512, 8192, 8192]
    assert again.notes == [], "it was said when it was found out"


async def test_samples_are_asked_for_again_together(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = reasoning
    assert [each.text for each in await model().samples("2 + 2?", 3)] == ["4", "4", "4"]
    assert [(request["max_tokens"], request.get("n", 1)) for request in chat_server.requests] == [(512, 3), (8192, 3)]


async def test_only_the_samples_that_were_cut_off_are_asked_for_again(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        answer = reasoning(body)
        if len(chat_server.requests) == 1:
            whole = {"message": {"content": "5", "reasoning": "quick"}, "finish_reason": "stop"}
            answer["choices"] = [answer["choices"][0], whole, answer["choices"][0]]
        return answer

    chat_server.reply = reply
    assert [each.text for each in await model().samples("2 + 2?", 3)] == ["5", "4", "4"]
    assert [(request["max_tokens"], request.get("n", 1)) for request in chat_server.requests] == [(512, 3), (8192, 2)]


async def test_claude_too(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        thinking = {"type": "thinking", "thinking": "2 and 2", "signature": "x"}
        if body["max_tokens"] <= THOUGHTS:
            return message(thinking, {"type": "text", "text": "It is"}, stop_reason="max_tokens")
        return message(thinking, {"type": "text", "text": "It is 4"})

    chat_server.reply = reply
    claude = model(provider="anthropic", base_url=chat_server.base_url)
    assert (await claude.chat("2 + 2?")).text == "It is 4"
    assert sent(chat_server) == [512, 8192]


async def test_what_the_pipeline_sets_is_sent(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = reasoning
    for settings, call in (({"max_tokens": 512}, {}), ({}, {"max_tokens": 600})):
        with pytest.raises(RequestError, match="its reasoning took all of max_tokens"):
            await model(retries=0, **settings).chat("2 + 2?", **call)
    assert {*sent(chat_server)} == {512, 600}


async def test_a_model_that_does_not_reason_gets_the_default(model: Make, chat_server: ChatServer) -> None:
    chat_server.finish_reason = "length"
    teacher = model()
    assert (await teacher.chat("2 + 2?")).truncated
    await teacher.chat("3 + 3?")
    assert sent(chat_server) == [512, 512]
    assert teacher.notes == []


async def test_reasoning_that_is_done_in_time_changes_nothing(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: reasoning({"max_tokens": THOUGHTS + 1})
    await model().chat("2 + 2?")
    assert sent(chat_server) == [512]


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: {}. This model supports at most 2048 completion tokens",
        "'max_tokens' or 'max_completion_tokens' is too large: {}. This model's maximum context length is 2100 tokens and your "
        "request has 52 input tokens ({} > 2100 - 52).",
    ],
)
async def test_a_server_that_takes_less_gets_less(model: Make, chat_server: ChatServer, words: str) -> None:
    def reply(body: dict[str, Any]) -> Any:
        most = body["max_tokens"]
        return error(400, words.format(most, most)) if most > 2048 else reasoning(body)

    chat_server.reply = reply
    teacher = model(retries=0)
    assert (await teacher.chat("2 + 2?")).text == "4"
    await teacher.chat("3 + 3?")
    assert sent(chat_server) == [512, 8192, 4096, 2048, 2048]


async def test_a_long_prompt_that_leaves_less_room_shortens_only_its_own_answer(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> Any:
        is_long = body["messages"][-1]["content"] == "long" and body["max_tokens"] > 4096
        return error(400, "This model's maximum context length is exceeded") if is_long else reasoning(body)

    chat_server.reply = reply
    teacher = model(retries=0)
    for prompt in ("2 + 2?", "long", "3 + 3?"):
        await teacher.chat(prompt)
    assert sent(chat_server) == [512, 8192, 8192, 4096, 8192]


async def test_a_budget_is_a_bound_on_what_is_sent(model: Make, chat_server: ChatServer) -> None:
    """The answers are as long as they may be; a thousand tokens cost a dollar."""

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        answer = reasoning(body)
        answer["usage"]["completion_tokens"] = body["max_tokens"]
        return answer

    chat_server.reply = reply
    teacher = model(price={"output": 1000.0}, budget_usd=20.0, retries=0, limits={"concurrency": 4})
    done = await asyncio.gather(*[teacher.chat(f"{number}?") for number in range(8)], return_exceptions=True)
    assert sum(isinstance(each, BudgetError) for each in done) >= 5
    assert sent(chat_server).count(8192) in (1, 2)
    assert sum(sent(chat_server)) / 1000 <= 20.0
    assert teacher._model._gate.spent.usd == pytest.approx(sum(sent(chat_server)) / 1000)


def test_a_spec_that_is_sent_to_a_worker_says_whether_the_length_is_open() -> None:
    for given, is_open in (({}, True), ({"max_tokens": 512}, False)):
        spec = ModelSpec.model_validate({"provider": "openai", "model": "m", **given})
        there = ModelSpec.model_validate_json(spec.model_dump_json())
        assert (there.leaves_length_open, there.max_tokens, there.sampling()) == (is_open, 512, spec.sampling())
    assert not ModelSpec(provider="transformers", model="m").leaves_length_open


@pytest.mark.parametrize(
    ("spec", "answer", "limit"),
    [
        ({"max_tokens": 7}, {"tokens_out": 9000, "reasoning": "hm"}, 7),
        ({}, {"tokens_out": 500}, 512),
        ({}, {"tokens_out": 0}, 512),
        ({}, {"tokens_out": 8192, "reasoning": "hm"}, 8192),
        ({}, {"tokens_out": 4090, "reasoning": "hm"}, 4096),
        ({}, {"tokens_out": 0, "reasoning": "hm"}, 8192),
    ],
)
def test_an_answer_that_was_cut_off_names_the_limit_that_it_had(
    spec: dict[str, Any], answer: dict[str, Any], limit: int
) -> None:
    model = ModelSpec.model_validate({"provider": "openai", "model": "m", **spec})
    assert limit_of(model, Completion(text="", finish_reason="length", **answer)) == limit
