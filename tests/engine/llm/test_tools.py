"""Tools that a model may call: one form for all servers, part of the key, counted, and in batches."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message

from engine.llm.batches import provider as batch
from engine.llm.batches.provider import BatchProvider
from engine.llm.journal.answers import Journal
from engine.llm.limits.estimates import TOKENS_FOR_TOOLS, token_bound
from engine.llm.types.errors import RequestError
from engine.llm.types.requests import Request, as_messages
from engine.llm.types.tools import as_tools
from tests.batch_server import BatchServer, model_spec, request
from tests.chat_server import ChatServer, completion, message
from tests.engine.conftest import Make
from tests.message_batch_server import MessageBatchServer

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "of a city", "parameters": PARAMETERS}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}


def calling(reason: str = "tool_calls") -> dict[str, Any]:
    """A chat completion that calls the tool."""
    made = completion("")
    made["choices"][0] |= {"message": {"role": "assistant", "content": None, "tool_calls": [CALL]}, "finish_reason": reason}
    return made


@pytest.mark.parametrize(
    "given",
    [
        WEATHER,
        {"type": "function", "function": WEATHER},
        {"name": "weather", "description": "of a city", "input_schema": PARAMETERS},
        {"type": "function", **WEATHER},
    ],
)
def test_tools_have_one_form(given: dict[str, Any]) -> None:
    assert as_tools([given]) == ({"type": "function", "function": WEATHER},)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("weather", "'weather' is not a list of tools"),
        (["weather"], "tool 0 is 'weather'; expected {name, description, parameters}"),
        ([{"type": "web_search"}], "tool 0 has the type 'web_search'; only functions can be called"),
        ([{"name": "the weather"}], "tool 0 has no name of letters, digits, `_` and `-`"),
        ([{"name": "weather", "parameters": "city"}], "weather: parameters is not a JSON Schema"),
        ([{"name": "weather", "description": 1}], "weather: description is not a text"),
        ([{"name": "weather", "parametrs": PARAMETERS}], "weather: unknown key 'parametrs'; did you mean 'parameters'?"),
        ([{"type": "function", "function": WEATHER, "strikt": True}], "weather: unknown key 'strikt'"),
        ([{"name": "weather", "strict": "yes"}], "weather: strict is neither true nor false"),
        ([WEATHER, WEATHER], "there are two tools called 'weather'"),
        ([{"name": f"t{number}"} for number in range(129)], "there are 129 tools; the limit is 128"),
    ],
)
def test_an_invalid_tool_is_an_error(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        as_tools(given)


def test_strict_is_kept_and_keys_without_a_value_are_left_out() -> None:
    assert as_tools([{**WEATHER, "strict": True, "required": None}])[0]["function"] == {**WEATHER, "strict": True}


def test_tools_are_part_of_the_key_and_of_the_bound() -> None:
    plain = Request("http://x/v1", "m", as_messages("q"), {"max_tokens": 7})
    offered = Request("http://x/v1", "m", as_messages("q"), {"max_tokens": 7}, tools=as_tools([WEATHER]))
    assert plain.key != offered.key
    more = len(json.dumps(as_tools([WEATHER])).encode())
    assert token_bound(offered)[0] == token_bound(plain)[0] + TOKENS_FOR_TOOLS + more


@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
async def test_a_chat_server_gets_tools_and_its_calls_are_read(model: Make, chat_server: ChatServer, reason: str) -> None:
    chat_server.reply = lambda body: calling(reason)
    answer = await model().chat("q", tools=[WEATHER])
    assert chat_server.requests[0]["tools"] == [{"type": "function", "function": WEATHER}]
    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [("c1", "weather", '{"city": "Rome"}')]
    assert answer.finish_reason == "tool_calls", "also where the server says that it just stopped"
    assert (await model().chat("q", tools=[WEATHER])).tool_calls == answer.tool_calls
    assert len(chat_server.requests) == 1, "the journal has the answer"


async def test_anthropic_gets_tools_in_its_own_form(model: Make, chat_server: ChatServer) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
    reply = message(use, stop_reason="tool_use")
    Message.model_validate(reply, strict=False)
    chat_server.reply = lambda body: reply
    answer = await model(provider="anthropic", model="claude-test").chat("q", tools=[WEATHER, {"name": "now"}])
    assert chat_server.requests[0]["tools"] == [
        {"name": "weather", "description": "of a city", "input_schema": PARAMETERS},
        {"name": "now", "input_schema": {"type": "object"}},
    ]
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("weather", '{"city": "Rome"}')]


@pytest.mark.parametrize("kind", [BatchServer, MessageBatchServer])
async def test_calls_come_back_from_batches(kind: type[BatchServer], workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "LINGER_SECONDS", 0.03)
    monkeypatch.setenv("ENGINE_BATCH_POLL_SECONDS", "0.02")
    use = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}
    reply = calling() if kind is BatchServer else message(use, stop_reason="tool_use")
    with kind() as server:
        server.answer = lambda prompt, seen: (200, reply)
        journal = Journal(workdir / "journal")
        provider = BatchProvider(model_spec(server), journal)
        [answer] = await provider.complete([replace(request(server, "q"), tools=as_tools([WEATHER]))])
        assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [("c1", "weather", '{"city": "Rome"}')]
        with pytest.raises(RequestError, match="called a tool instead of answering, although none was offered"):
            await provider.complete([request(server, "r")])
        await provider.close()
        journal.close()
