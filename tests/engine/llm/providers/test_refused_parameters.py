"""A parameter that a server refuses for every request is noticed once, reported once, and left out from then on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from pydantic import BaseModel

from engine.llm.types.errors import EndpointError, RequestError
from tests.chat_server import ChatServer, completion
from tests.engine.conftest import Make

Reply = Callable[[dict[str, Any]], Any]


def refusing(name: str, status: int, document: Any) -> Reply:
    """A server that refuses requests with a parameter."""

    def reply(body: dict[str, Any]) -> Any:
        return web.json_response(document, status=status) if name in body else completion("4")

    return reply


# The words of real servers: OpenAI, Azure, Gemini's compatible endpoint, Mistral, Anthropic's compatible endpoint, vLLM, Groq.
SERVERS: dict[str, tuple[str, int, Any]] = {
    "gpt-5": (
        "temperature",
        400,
        {
            "error": {
                "message": "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is "
                "supported.",
                "type": "invalid_request_error",
                "param": "temperature",
                "code": "unsupported_value",
            }
        },
    ),
    "o3": (
        "stop",
        400,
        {
            "error": {
                "message": "Unsupported parameter: 'stop' is not supported with this model.",
                "param": "stop",
                "code": "unsupported_parameter",
            }
        },
    ),
    "azure": (
        "top_p",
        400,
        {"error": {"message": "Unsupported parameter: 'top_p' is not supported with this model.", "param": None, "code": None}},
    ),
    "gemini": (
        "seed",
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.',
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    "mistral": (
        "seed",
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 3}]},
    ),
    "anthropic": (
        "temperature",
        400,
        {"error": {"type": "invalid_request_error", "message": "`temperature` may only be set to 1 when thinking is enabled."}},
    ),
    "anthropic, two at once": (
        "top_p",
        400,
        {
            "error": {
                "type": "invalid_request_error",
                "message": "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
            }
        },
    ),
    "groq": ("temperature", 400, {"error": {"message": "property 'temperature' is unsupported, did you mean 'top_p'?"}}),
}
SETTINGS = {"temperature": 0.7, "top_p": 0.9, "stop": ["END"], "seed": 3}


@pytest.mark.parametrize(("name", "status", "document"), SERVERS.values(), ids=SERVERS)
async def test_a_refused_parameter_is_left_out(
    model: Make, chat_server: ChatServer, name: str, status: int, document: Any
) -> None:
    if name == "temperature":
        document = json.loads(json.dumps(document).replace(", did you mean 'top_p'?", ""))
    chat_server.reply = refusing(name, status, document)
    teacher = model(**SETTINGS)
    first = await teacher.chat("2 + 2?")
    assert (first.text, first.left_out) == ("4", (name,))
    assert (await teacher.chat("3 + 3?")).left_out == (name,)
    assert [name in request for request in chat_server.requests] == [True, False, False]
    # Only this one is left out.
    assert {*SETTINGS} - {*chat_server.requests[-1]} == {name}
    [note] = [each for each in teacher.notes if name in each]
    assert "takes no" in note
    assert "the server's default applies" in note


async def test_a_model_that_refuses_several_loses_them_one_by_one(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> Any:
        for name in ("temperature", "top_p", "seed"):
            if name in body:
                error = {"message": f"Unsupported parameter: '{name}'", "param": name, "code": "unsupported_parameter"}
                return web.json_response({"error": error}, status=400)
        return completion("4")

    chat_server.reply = reply
    teacher = model(**SETTINGS)
    assert {*(await teacher.chat("2 + 2?")).left_out} == {"temperature", "top_p", "seed"}
    assert len(chat_server.requests) == 4
    assert (await teacher.chat("3 + 3?")).text == "4"
    assert len(chat_server.requests) == 5


async def test_what_was_found_out_is_known_in_the_next_run(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = refusing(*SERVERS["gpt-5"])
    await model().chat("2 + 2?")
    await model().chat("3 + 3?")
    assert ["temperature" in request for request in chat_server.requests] == [True, False, False]


@pytest.mark.parametrize(
    "message",
    [
        "temperature must be between 0 and 1",
        "Invalid value for temperature: 0.7 is greater than the maximum value of 0.5",
        "'temperature': 0.7 is out of range",
        "the prompt has an unknown word",
        "I stop here: unsupported",
    ],
)
async def test_a_value_that_is_wrong_stays_an_error(model: Make, chat_server: ChatServer, message: str) -> None:
    chat_server.reply = refusing("temperature", 400, {"error": {"message": message}})
    with pytest.raises((RequestError, EndpointError), match="answered 400"):
        await model(retries=0).chat("2 + 2?")


async def test_a_temperature_of_null_is_not_sent(model: Make, chat_server: ChatServer) -> None:
    first = await model(temperature=None).chat("2 + 2?")
    assert "temperature" not in chat_server.requests[0]
    assert first.left_out == ()


async def test_requests_at_once_learn_from_the_first_refusal(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> Any:
        for name in ("max_tokens", "temperature", "top_p", "stop"):
            if name in body:
                words = f"Unsupported parameter: '{name}'" + (", use max_completion_tokens" if name == "max_tokens" else "")
                error = {"message": words, "param": name, "code": "unsupported_parameter"}
                return web.json_response({"error": error}, status=400)
        return completion("4")

    chat_server.reply = reply
    chat_server.latency = 0.01
    teacher = model(**SETTINGS, limits={"concurrency": 4})
    await asyncio.gather(*(teacher.chat(f"{number} + 3?") for number in range(40)))
    # Four parameters, each met by at most the requests in flight.
    assert len(chat_server.requests) <= 40 + 4 * 4


@pytest.mark.parametrize(
    ("words", "most"),
    [
        ("Invalid 'n': integer above maximum value. Expected a value <= 4", 4),
        ("n_cmpl: only 3 slots, so n must be at most 3", 3),
    ],
)
async def test_a_limit_of_samples_is_respected_and_does_not_count_as_lack_of_support(
    model: Make, chat_server: ChatServer, words: str, most: int
) -> None:
    chat_server.reply = lambda body: (
        web.json_response({"error": {"message": words}}, status=400) if body.get("n", 1) > most else None
    )
    chat_server.answer = lambda prompt, seen: f"{prompt} {seen}"
    teacher = model()
    assert len(await teacher.samples("a few", 3)) == 3
    for number in range(2):
        assert len(await teacher.samples(f"many {number}", 9)) == 9
    asked = [request.get("n", 1) for request in chat_server.requests]
    assert asked == [3, 9, 3, 3, 3, 3, 3, 3]
    assert teacher.notes == []


async def test_greedy_samples_are_asked_for_one_by_one_where_several_are_refused(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: (
        web.json_response({"error": {"message": "n must be 1 when using greedy sampling, got 3.", "code": 400}}, status=400)
        if body.get("n", 1) > 1 and body["temperature"] == 0
        else None
    )
    greedy = model(temperature=0.0)
    assert len(await greedy.samples("q", 3)) == 3
    assert len(await greedy.samples("r", 3)) == 3
    assert [request.get("n", 1) for request in chat_server.requests] == [3, 1, 1, 1, 1, 1, 1]
    # Nothing is concluded for other temperatures.
    assert len(await model(temperature=1.0).samples("q", 3)) == 3
    assert chat_server.requests[-1]["n"] == 3


async def test_only_the_feature_that_a_refusal_names_is_left_out(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: (
        web.json_response(
            {"error": {"message": "response_format value as json_schema is enabled only for later versions"}}, status=400
        )
        if "response_format" in body
        else None
    )
    chat_server.answer = lambda prompt, seen: json.dumps({"city": str(seen)})
    teacher = model()

    class City(BaseModel):
        city: str

    assert len(await teacher.parse_each("Which?", City, 3)) == 3
    assert [request.get("n", 1) for request in chat_server.requests] == [3, 3]


async def test_top_p_is_not_sent_where_it_changes_nothing(model: Make, chat_server: ChatServer) -> None:
    first = await model(temperature=0.0, top_p=0.9).chat("2 + 2?")
    assert "top_p" not in chat_server.requests[0]
    assert first.left_out == ()
