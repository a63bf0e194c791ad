"""Refusals of every request end the step early, unsupported features are worked around, and stored answers are readable."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import BaseModel

from engine.llm.chat import ChatModel
from engine.llm.journal.answers import Journal
from engine.llm.limits.circuit_breaker import MOST_REFUSALS
from engine.llm.types.completions import Completion
from engine.llm.types.errors import EndpointError, RequestError
from registry import Registry
from tests.chat_server import ChatServer, completion, error
from tests.engine.conftest import Make
from tests.engine.run_pipelines import ask, run_text, words


class City(BaseModel):
    """An answer as an object."""

    city: str


async def ask_all(one: ChatModel, number: int) -> list[Any]:
    """Some questions, one after another: answers or errors."""
    return [(await asyncio.gather(one.chat(f"q {place}"), return_exceptions=True))[0] for place in range(number)]


# -- failures that every request would have -------------------------------------------------------------------------------------


async def test_equal_refusals_without_any_answer_stop_the_step(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: error(400, f"`top_k` is unknown (request {len(chat_server.requests)})")
    failures = await ask_all(model(), MOST_REFUSALS + 5)
    assert [type(each) for each in failures] == [RequestError] * (MOST_REFUSALS - 1) + [EndpointError] * 6
    assert "400: `top_k` is unknown" in str(failures[-1])
    assert "none was answered" in str(failures[-1])
    assert len(chat_server.requests) == MOST_REFUSALS


async def test_refusals_with_different_words_reject_single_rows(model: Make, chat_server: ChatServer) -> None:
    said = ["too long", "not allowed"]
    chat_server.reply = lambda body: error(400, said[len(chat_server.requests) % 2])
    assert {type(each) for each in await ask_all(model(), 2 * MOST_REFUSALS)} == {RequestError}


@pytest.mark.parametrize("earlier", [False, True])
async def test_refusals_after_an_answer_reject_single_rows(model: Make, chat_server: ChatServer, earlier: bool) -> None:
    one = model()
    await one.chat("good")
    if earlier:  # in a run before: the journal has it
        one = model()
        await one.chat("good")
    chat_server.reply = lambda body: error(400, "no")
    assert {type(each) for each in await ask_all(one, MOST_REFUSALS + 1)} == {RequestError}


async def test_unusable_answers_are_not_refusals(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: ""
    assert all(isinstance(each, RequestError) for each in await ask_all(model(), MOST_REFUSALS + 1))


async def test_a_host_that_does_not_exist_stops_at_once(model: Make) -> None:
    one = model(base_url="http://no-such-host.invalid/v1", retries=6)
    with pytest.raises(EndpointError, match=r"no-such-host\.invalid.*correct base_url"):
        await one.chat("q")
    assert one._model._gate.spent.calls == 1


# -- features that make a server fail ----------------------------------------------------------------------------------


async def test_a_response_format_that_is_answered_with_500_is_no_longer_used(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> web.Response | dict[str, Any]:
        if "response_format" in body:
            return error(500, 'response_format type must be one of "text" or "json_object"')
        return completion('{"city": "Paris"}')

    chat_server.reply = reply
    one = model()
    for number in range(3):
        assert (await one.parse(f"q {number}", City)).city == "Paris"
    assert ["response_format" in body for body in chat_server.requests] == [True, False, False, False]
    assert any("does not support `response_format`" in note for note in one.notes)


async def test_a_router_without_a_provider_for_response_format_is_called_without_it(
    model: Make, chat_server: ChatServer
) -> None:
    chat_server.reply = lambda body: (
        error(404, "No endpoints found that can handle the requested parameters.")
        if "response_format" in body
        else completion('{"city": "Paris"}')
    )
    assert (await model().parse("q", City)).city == "Paris"
    assert len(chat_server.requests) == 2


async def test_one_unexplained_failure_shows_nothing_about_capabilities(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: (
        error(500, "oops") if "response_format" in body and len(chat_server.requests) == 1 else completion('{"city": "Paris"}')
    )
    one = model()
    for number in range(3):
        await one.parse(f"q {number}", City)
    assert ["response_format" in body for body in chat_server.requests] == [True, False, True, True]
    assert one.notes == []


async def test_after_a_500_samples_are_requested_one_by_one(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: (
        error(500, "unexpected keyword argument: n") if "n" in body else completion(f"{len(chat_server.requests)}")
    )
    assert len({each.text for each in await model().samples("q", 3)}) == 3
    assert [body.get("n") for body in chat_server.requests] == [3, None, None, None]


# -- answers that are not whole --------------------------------------------------------------------------------------


async def test_incomplete_samples_are_requested_again(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        done = completion(*[f"{len(chat_server.requests)}.{place}" for place in range(body.get("n", 1))])
        if len(chat_server.requests) == 1:
            done["choices"][1]["finish_reason"] = "content_filter"
        return done

    chat_server.reply = reply
    one = model()
    answers = await one.samples("q", 3)
    assert [each.text for each in answers] == ["1.0", "1.2", "2.0"]
    assert sum(each.tokens_out for each in answers) == 3 * 5 + 5  # all that was paid for
    assert one.notes == []  # the server knows `n`


async def test_an_answer_that_is_not_whole_is_not_kept(model: Make, chat_server: ChatServer) -> None:
    chat_server.finish_reason = "content_filter"
    with pytest.raises(RequestError, match="content filter"):
        await model().chat("q")
    chat_server.finish_reason = "stop"
    assert (await model().chat("q")).text == "You said: q"


async def test_a_missing_finish_reason_is_noted(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: {"choices": [{"message": {"content": "4"}}]}
    one = model()
    assert not (await one.chat("q")).truncated
    await one.chat("other")
    assert ["does not report why answers end" in note for note in one.notes].count(True) == 1


async def test_tool_calls_are_answers_where_tools_are_offered(model: Make, chat_server: ChatServer) -> None:
    chat_server.finish_reason = "tool_calls"
    with pytest.raises(RequestError, match="called a tool"):
        await model().chat("q")
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert (await model(extra_body={"tools": tools}).chat("q")).finish_reason == "tool_calls"


async def test_an_object_inside_an_answer_that_was_cut_off_is_not_taken(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: completion('It is {"city": "Paris"}, or', finish_reason="length")
    with pytest.raises(RequestError, match="cut off at max_tokens=512"):
        await model().parse("q", City)


@pytest.mark.parametrize("text", ["[" * 5000, '{"a":' * 3000, "```" * 2000 + "{", '{"city": [' + "1," * 5000 + "1]}"])
async def test_an_answer_that_is_too_deep_or_long_is_paid_once_and_rejected(
    model: Make, chat_server: ChatServer, text: str
) -> None:
    chat_server.answer = lambda prompt, seen: text
    for _ in range(2):
        with pytest.raises(RequestError, match="not a valid City, even after one repair attempt") as failed:
            await model().parse("q", City)
        assert len(str(failed.value)) < 5000
    assert len(chat_server.requests) == 2


async def test_samples_that_were_all_cut_off_say_nothing_about_sampling(model: Make, chat_server: ChatServer) -> None:
    chat_server.finish_reason = "length"
    one = model(temperature=1.0)
    for number in range(6):
        await one.samples(f"q {number}", 3)
    assert not any("it seems not to sample" in note for note in one.notes)


# -- entries of the journal that are no answers ----------------------------------------------------------------------


def poison(workdir: Path, answer: str) -> None:
    """Replace all stored answers by something that an older version may have stored."""
    with sqlite3.connect(workdir / "journal" / "answers.sqlite") as connection:
        for (key,) in connection.execute("select key from answers").fetchall():
            checksum = hashlib.blake2b(f"{key}\n{answer}".encode(), digest_size=16).hexdigest()
            connection.execute("update answers set answer = ?, checksum = ? where key = ?", (answer, checksum, key))


@pytest.mark.parametrize(
    "answer",
    [
        '{"text": "x", "logprobs": [{"token": "x", "logprob": null}]}',
        "[]",
        '{"text": null}',
        "[" * 5000,
        "no JSON",
        '{"text": "Half of", "finish_reason": "content_filter"}',
    ],
)
async def test_an_entry_that_is_not_an_answer_is_requested_again_and_replaced(
    model: Make, chat_server: ChatServer, workdir: Path, answer: str
) -> None:
    await model().chat("q")
    poison(workdir, answer)
    one = model()
    assert (await one.chat("q")).text == "You said: q"
    assert (await model().chat("q")).text == "You said: q"
    assert len(chat_server.requests) == 2
    assert any("1 entry of the journal is not a complete answer" in note for note in one.notes)


async def test_impossible_counts_do_not_invalidate_an_answer(model: Make, chat_server: ChatServer, workdir: Path) -> None:
    await model().chat("q")
    poison(workdir, '{"text": "kept", "tokens_in": 18446744073709551615, "tokens_out": -5}')
    assert await model().chat("q") == Completion(text="kept")
    assert len(chat_server.requests) == 1


async def test_an_answer_of_an_older_version_is_recognised_as_cut_off(
    model: Make, chat_server: ChatServer, workdir: Path
) -> None:
    await model().chat("q")
    poison(workdir, '{"text": "Half of", "finish_reason": "MAX_TOKENS"}')
    assert (await model().chat("q")).truncated
    assert len(chat_server.requests) == 1


async def test_an_unreadable_entry_does_not_win_over_an_answer(workdir: Path) -> None:
    journal = Journal(workdir / "journal")
    await journal.put("k", Completion(text="first"))
    poison(workdir, "no JSON")
    assert await journal.put("k", Completion(text="second")) == Completion(text="second")
    assert await journal.get("k") == Completion(text="second")
    journal.close()


# -- what an answer makes an operator raise --------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_an_answer_that_an_operator_cannot_parse_is_a_reject_and_can_be_requested_again(
    registry: Registry, chat_server: ChatServer
) -> None:
    chat_server.answer = lambda prompt, seen: "9" * 5000 if prompt == "Size of b" and not seen else "7"
    words("a", "b")
    pipeline = json.dumps(
        {
            "name": "demo",
            "datasets": {"words": {"type": "Word", "path": "words.jsonl"}},
            "models": {"teacher": json.loads(chat_server.model())},
            "steps": {"s": {"op": "doubled", "in": "words", "max_reject_ratio": 1.0}},
        }
    )
    assert run_text(pipeline, registry).state == "succeeded"
    [(reason,)] = ask(registry, "select reason from rejects")
    assert "operator doubled raised ValueError: Exceeds the limit" in reason
    assert run_text(pipeline, registry, retry_rejects=True).state == "succeeded"
    assert ask(registry, 'select text from "demo/s" order by row') == [("14",), ("14",)]
    assert len(chat_server.requests) == 3
