"""Anthropic's Messages API: our requests and the scripted replies have the types of the official client."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from anthropic.types import Message
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from pydantic import BaseModel, TypeAdapter, ValidationError

from engine.llm.chat import CallLog, current_log
from engine.llm.providers.messages_api import completion
from engine.llm.types.capability import ruled_out
from engine.llm.types.errors import EndpointError, RequestError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request, as_messages
from tests.chat_server import ChatServer, message
from tests.engine.conftest import Make

TEXT = {"type": "text", "text": "4"}
THINKING = {"type": "thinking", "thinking": "2 and 2", "signature": "c2lnbmF0dXJl"}
KNOWN = TypeAdapter(MessageCreateParamsNonStreaming)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}


class City(BaseModel):
    """A city."""

    name: str


def claude(model: Make, **more: Any) -> Any:
    return model(provider="anthropic", model="claude-test", **more)


def check_request(body: dict[str, Any]) -> None:
    """Check that a request has the official client's type and no other keys."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KNOWN.dump_python(KNOWN.validate_python(body), warnings="error")
    # Older models accept a temperature, which the client's types no longer have.
    assert body.keys() - {"temperature"} <= MessageCreateParamsNonStreaming.__annotations__.keys() | {
        name for base in MessageCreateParamsNonStreaming.__orig_bases__ for name in base.__annotations__
    }


def test_reasoning_tokens_are_known() -> None:
    details = {"output_tokens_details": {"thinking_tokens": 3}}
    asked = Request("http://x/v1", "m", as_messages("hello"), {"temperature": None, "seed": None, "max_tokens": 9})
    assert completion(message(TEXT) | {"usage": message(TEXT)["usage"] | details}, asked, 1.0).tokens_reasoning == 3


async def test_a_request_and_its_answer(model: Make, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_KEY", "not-a-real-key-0123456789")
    reply = message(THINKING, TEXT, cache_read_input_tokens=30, cache_creation_input_tokens=60)
    Message.model_validate(reply, strict=False)
    chat_server.reply = lambda body: reply
    teacher = claude(
        model,
        api_key_env="CLAUDE_KEY",
        system="Be short.",
        stop=["END"],
        price={"input": 1, "cached_input": 0.1, "cache_write": 1.25},
    )
    done = await teacher.chat("2 + 2?")
    assert (done.text, done.reasoning, done.finish_reason, done.served_by) == ("4", "2 and 2", "stop", "claude-test-1")
    assert (done.tokens_in, done.tokens_cached, done.tokens_written, done.tokens_out) == (100, 30, 60, 5)
    assert current_log.get().calls[-1].cost_usd == pytest.approx((10 + 30 * 0.1 + 60 * 1.25) / 1e6)
    [sent], [headers] = chat_server.requests, chat_server.headers
    check_request(sent)
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("not-a-real-key-0123456789", "2023-06-01")
    assert "Authorization" not in headers
    assert sent["system"] == [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}]
    assert sent["messages"] == [{"role": "user", "content": "2 + 2?"}]
    assert (sent["stop_sequences"], sent["temperature"]) == (["END"], 0.7)
    assert await teacher.chat("2 + 2?") == done
    assert len(chat_server.requests) == 1


async def test_thinking_is_sent_without_a_temperature_and_is_part_of_the_key(model: Make, chat_server: ChatServer) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    await claude(model, max_tokens=2048, thinking=thinking).chat("2 + 2?")
    await claude(model, max_tokens=2048).chat("2 + 2?")
    first, second = chat_server.requests
    check_request(first)
    assert first["thinking"] == thinking
    assert "temperature" not in first
    assert "thinking" not in second


async def test_a_schema_is_sent_or_asked_for_in_words(model: Make, chat_server: ChatServer) -> None:
    rome = message(THINKING, {"type": "text", "text": '{"name": "Rome"}'})
    chat_server.reply = lambda body: rome
    effort = {"output_config": {"effort": "low"}}
    assert (await claude(model, extra_body=effort).parse("The capital of Italy?", City)).name == "Rome"
    [sent] = chat_server.requests
    check_request(sent)
    assert sent["output_config"]["effort"] == "low"
    assert sent["output_config"]["format"]["schema"]["title"] == "City"

    def reply(body: dict[str, Any]) -> Any:
        words = "This model does not support structured outputs: output_config.format"
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
        return web.json_response(error, status=400) if "output_config" in body else rome

    chat_server.reply = reply
    for question in ("The capital of France?", "The capital of Spain?"):
        old = model(provider="anthropic", model="claude-old")
        assert (await old.parse(question, City)).name == "Rome"
    check_request(chat_server.requests[-1])
    assert ["output_config" in body for body in chat_server.requests[1:]] == [True, False, False]
    assert "JSON Schema" in chat_server.requests[-1]["messages"][0]["content"]


async def test_an_image_is_sent(model: Make, chat_server: ChatServer) -> None:
    await claude(model).chat([{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}])
    check_request(chat_server.requests[0])
    assert chat_server.requests[0]["messages"][0]["content"][1]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "aGVsbG8=",
    }


async def test_samples_are_asked_for_one_by_one(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: f"answer {seen}"
    found = await claude(model).samples("2 + 2?", 3)
    assert len({each.text for each in found}) == 3
    assert len(chat_server.requests) == 3


async def test_several_rows_at_once_leave_out_what_the_model_refuses(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> Any:
        words = "`temperature` is deprecated for this model."
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
        return web.json_response(error, status=400) if "temperature" in body else message(TEXT)

    chat_server.reply = reply
    teacher = claude(model)
    assert (await teacher.chat("2 + 2?")).left_out == ("temperature",)
    assert (await teacher.chat("3 + 3?")).left_out == ("temperature",)
    assert len(chat_server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (message(TEXT, stop_reason="refusal"), "the model refused: 4"),
        (message(TEXT, stop_reason="pause_turn"), "ended its answer for an unknown reason"),
        (message({"type": "tool_use", "id": "t", "name": "f", "input": {}}, stop_reason="tool_use"), "called a tool"),
        (message(), "empty answer"),
        (message(THINKING), "empty answer, only reasoning"),
        ({"content": "text"}, "not a message|no answer after"),
        ({"content": [{"type": "text"}]}, "not a message"),
        ({"content": [None]}, "not a message"),
    ],
)
async def test_an_incomplete_answer_is_not_used(model: Make, chat_server: ChatServer, reply: Any, why: str) -> None:
    chat_server.reply = lambda body: reply
    with pytest.raises(RequestError, match=why):
        await claude(model, retries=0).chat("2 + 2?")


async def test_an_answer_that_was_cut_off_says_so(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: message(TEXT, stop_reason="max_tokens")
    assert (await claude(model).chat("2 + 2?")).truncated


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (401, "authentication_error", EndpointError),
        (404, "not_found_error", EndpointError),
        (529, "overloaded_error", RequestError),
    ],
)
async def test_errors_by_class(model: Make, chat_server: ChatServer, status: int, kind: str, error: type[Exception]) -> None:
    document = {"type": "error", "error": {"type": kind, "message": "words of the server"}}
    chat_server.reply = lambda body: web.json_response(document, status=status)
    with pytest.raises(error, match="words of the server"):
        await claude(model, retries=0).chat("2 + 2?")


async def test_a_key_that_the_server_repeats_is_hidden(
    model: Make, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_KEY", "not-a-real-key-0123456789")
    chat_server.reply = lambda body: message(
        {"type": "thinking", "thinking": "not-a-real-key-0123456789", "signature": ""}, TEXT
    )
    current_log.set(log := CallLog())
    with pytest.raises(RequestError, match="contains the API key"):
        await claude(model, api_key_env="CLAUDE_KEY", retries=0).chat("2 + 2?")
    assert "not-a-real-key" not in repr(log)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"thinking": {"type": "enabled", "budget_tokens": 512}},
            r"\(512\) must be below max_tokens \(512, the default\), which .*; set for example max_tokens: 2560",
        ),
        ({"thinking": {}}, r"write \{budget_tokens: N\}"),
        ({"thinking": {"budget": 1024}}, r"write \{budget_tokens: N\}"),
        ({"thinking": {"type": "enabled", "budget_tokens": 512}, "max_tokens": 512}, "must be below max_tokens"),
        ({"seed": 1}, "has no seed; remove it"),
        ({"provider": "openai", "thinking": {"budget_tokens": 9}}, "only for provider: anthropic"),
    ],
)
def test_settings_that_do_not_fit_are_errors(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ModelSpec.model_validate({"provider": "anthropic", "model": "m", **settings})


def test_log_probabilities_are_ruled_out_by_check() -> None:
    setting = ruled_out(ModelSpec(provider="anthropic", model="m"), ["logprobs"])
    assert setting
    assert setting.name == "provider"


async def test_log_probabilities_are_refused_at_once(model: Make, chat_server: ChatServer) -> None:
    with pytest.raises(EndpointError, match="returns no log-probabilities"):
        await claude(model).chat("2 + 2?", logprobs=1)
    assert chat_server.requests == []


TOOLS = {"tools": [{"name": "weather", "description": "of a place", "input_schema": {"type": "object"}}]}
REDACTED = {"type": "redacted_thinking", "data": "c2VjcmV0"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"place": "Rome"}}


async def test_reasoning_goes_back_with_its_signature_while_tools_are_used(
    model: Make, chat_server: ChatServer, workdir: Path
) -> None:
    replies = [
        message(THINKING, REDACTED, TEXT, USE, {**USE, "id": "toolu_2"}, stop_reason="tool_use"),
        message(THINKING, TEXT),
    ]
    for reply in replies:
        Message.model_validate(reply, strict=False)
    chat_server.reply = lambda body: replies[min(len(chat_server.requests), 2) - 1]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    agent = claude(model, max_tokens=2048, thinking=thinking, extra_body=TOOLS)
    talk = [{"role": "user", "content": "The weather in Rome?"}]
    first = await agent.chat(talk)
    assert first.thinking_blocks == (THINKING, REDACTED)
    assert await agent.chat(talk) == first, "the journal has the blocks"
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"sunny {call.id}"} for call in first.tool_calls]
    talk += [first.message(), *results]
    second = await agent.chat(talk)
    check_request(chat_server.requests[1])
    assert chat_server.requests[1]["messages"][1:] == [
        {"role": "assistant", "content": [THINKING, REDACTED, TEXT, USE, {**USE, "id": "toolu_2"}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": each, "content": f"sunny {each}"} for each in ("toolu_1", "toolu_2")
            ],
        },
    ]
    talk += [second.message(), {"role": "user", "content": "And tomorrow?"}]
    await agent.chat(talk)
    check_request(chat_server.requests[2])
    sent = chat_server.requests[2]["messages"]
    assert "thinking" not in str(sent), "of earlier turns, the API has no use for it"
    assert sent[1]["content"] == [TEXT, USE, {**USE, "id": "toolu_2"}]
    assert sent[3] == {"role": "assistant", "content": "4"}
    chat_server.reply = None
    await model(extra_body=TOOLS).chat(talk)
    assert "thinking" not in str(chat_server.requests[3]), "another server cannot read it"
    assert [each.get("tool_call_id") for each in chat_server.requests[3]["messages"]] == [
        None,
        None,
        "toolu_1",
        "toolu_2",
        None,
        None,
    ]


def test_a_block_without_a_signature_cannot_go_back() -> None:
    asked = Request("http://x/v1", "m", as_messages("hello"), {"temperature": None, "seed": None, "max_tokens": 9})
    bare = [{"type": "thinking", "thinking": "Hm."}, {"type": "thinking", "thinking": "Hm.", "signature": ""}]
    answer = completion(message(*bare, {"type": "redacted_thinking"}, TEXT), asked, 1.0)
    assert (answer.reasoning, answer.thinking_blocks) == ("Hm.\nHm.", ())


async def test_arguments_that_are_not_an_object_reject_the_row(model: Make, chat_server: ChatServer) -> None:
    call = {"id": "toolu_1", "function": {"name": "weather", "arguments": "Rome"}}
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(RequestError, match="arguments of a call of weather are not a JSON object: Rome"):
        await claude(model).chat([*talk, {"role": "tool", "tool_call_id": "toolu_1", "content": "sunny"}])
    assert chat_server.requests == []


def test_a_budget_of_thinking_is_enough() -> None:
    short = ModelSpec.model_validate(
        {"provider": "anthropic", "model": "m", "max_tokens": 2048, "thinking": {"budget_tokens": 1024}}
    )
    assert short.thinking == {"type": "enabled", "budget_tokens": 1024}
    assert short.sampling()["thinking"] == {"type": "enabled", "budget_tokens": 1024}


def test_what_goes_into_the_cache_costs_a_quarter_more() -> None:
    price = {"input": 1.0, "output": 2.0}
    claude, other = (
        ModelSpec.model_validate({"provider": each, "model": "m", "price": price}) for each in ("anthropic", "openai")
    )
    assert claude.cost(1_000_000, 0, 0, 1_000_000) == claude.most(1_000_000, 0) == pytest.approx(1.25)
    assert other.cost(1_000_000, 0, 0, 1_000_000) == other.most(1_000_000, 0) == pytest.approx(1.0)


async def test_reasoning_without_room_for_an_answer_says_what_to_raise(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: message(THINKING, stop_reason="max_tokens")
    with pytest.raises(RequestError, match=r"its reasoning took all of max_tokens=512, .*; raise it"):
        await claude(model, retries=0, max_tokens=512).chat("2 + 2?")
