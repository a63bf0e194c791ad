"""Several answers to a prompt, structured answers, log-probabilities: with servers that support them, and with others."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from aiohttp import web
from pydantic import BaseModel, Field

from engine.llm.chat import current_log
from engine.llm.types.capability import MEANING
from engine.llm.types.errors import BudgetError, EndpointError, RequestError
from engine.llm.types.structured import UnparsableError, json_schema, parse_answer
from tests.chat_server import ChatServer, completion, error
from tests.engine.conftest import Make


class Reason(BaseModel):
    """Why."""

    text: str


class Verdict(BaseModel):
    """A judge's verdict."""

    correct: bool
    score: int = Field(default=3, ge=1, le=5)
    kind: Literal["fact", "opinion"] = "fact"
    reasons: list[Reason] = []


GOOD = {"correct": True, "score": 4, "kind": "fact", "reasons": [{"text": "it says so"}]}


# -- several samples -------------------------------------------------------------------------------------------------


async def test_samples_come_in_one_request_and_missing_ones_are_added(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: f"{len(chat_server.requests)}.{seen}"
    one = model()
    first = await one.samples("q", 5)
    assert [answer.text for answer in first] == [f"1.{place}" for place in range(5)]
    assert [answer.tokens_in for answer in first] == [10, 0, 0, 0, 0]
    assert sum(answer.tokens_out for answer in first) == 25
    more = await one.samples("q", 8)
    assert more[:5] == first
    assert [request.get("n") for request in chat_server.requests] == [5, 3]
    assert (await one.chat("q", sample=7)) == more[7]
    assert len(chat_server.requests) == 2


@pytest.mark.parametrize("how", ["ignored", "refused"])
async def test_a_server_without_n_gets_one_request_per_sample(model: Make, chat_server: ChatServer, how: str) -> None:
    def reply(body: dict[str, Any]) -> web.Response | dict[str, Any]:
        if how == "refused" and "n" in body:
            return error(400, "n must be 1")
        return completion(f"answer {len(chat_server.requests)}")

    chat_server.reply = reply
    one = model()
    answers = await one.samples("q", 4)
    assert len({answer.text for answer in answers}) == 4
    await one.samples("other", 2)
    assert [request.get("n") for request in chat_server.requests][:2] == [4, None]
    assert len(chat_server.requests) == (5 if how == "refused" else 4) + 2
    assert any("does not support `n`" in note for note in one.notes)
    # This is remembered, so another run does not try again.
    await model().samples("third", 2)
    assert [request.get("n") for request in chat_server.requests][-2:] == [None, None]


async def test_a_refusal_of_one_prompt_does_not_change_the_capabilities(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: error(400, "no") if "bad" in body["messages"][-1]["content"] else None
    one = model()
    assert len(await one.samples("good", 3)) == 3
    with pytest.raises(RequestError, match="400: no"):
        await one.samples("bad", 3)
    assert [request.get("n") for request in chat_server.requests] == [3, 3]
    assert one.notes == []


async def test_a_server_that_does_not_sample_is_noticed(model: Make, chat_server: ChatServer) -> None:
    one = model(temperature=1.0)
    for number in range(5):
        await one.samples(f"q {number}", 3)
    assert ["it seems not to sample" in note for note in one.notes] == [True]
    chat_server.answer = lambda prompt, seen: f"{prompt} {seen}"
    other = model(temperature=0.9)
    for number in range(9):
        await other.samples(f"q {number}", 3)
    assert other.notes == []


# -- objects ---------------------------------------------------------------------------------------------------------


async def test_a_server_gets_the_schema(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: json.dumps(GOOD)
    verdict = await model().parse("Is it so?", Verdict)
    assert verdict == Verdict.model_validate(GOOD)
    [request] = chat_server.requests
    asked = request["response_format"]["json_schema"]
    assert (request["response_format"]["type"], asked["name"], asked["strict"]) == ("json_schema", "Verdict", True)
    assert asked["schema"]["required"] == ["correct", "score", "kind", "reasons"]
    assert asked["schema"]["additionalProperties"] is False
    assert asked["schema"]["$defs"]["Reason"]["additionalProperties"] is False
    await model().parse("Is it so?", Verdict)
    assert len(chat_server.requests) == 1


@pytest.mark.parametrize("how", ["ignored", "refused"])
async def test_without_response_format_the_schema_is_added_to_the_prompt(
    model: Make, chat_server: ChatServer, how: str
) -> None:
    def reply(body: dict[str, Any]) -> web.Response | dict[str, Any]:
        if how == "refused" and "response_format" in body:
            return error(400, "response_format is not supported")
        asked = any("JSON Schema" in message["content"] for message in body["messages"])
        return completion(f"Here it is:\n```json\n{json.dumps(GOOD)}\n```" if asked else "Yes, it is so.")

    chat_server.reply = reply
    one = model()
    assert (await one.parse("Is it so?", Verdict)).score == 4
    before = len(chat_server.requests)
    assert (await one.parse("And now?", Verdict)).score == 4
    assert len(chat_server.requests) == before + 1
    assert "response_format" not in chat_server.requests[-1]
    # The key does not contain how the schema was sent: when a server gains support for it, answers are not paid for again.
    chat_server.reply = lambda body: completion(json.dumps(GOOD))
    assert (await model().parse("Is it so?", Verdict)).score == 4
    assert len(chat_server.requests) == before + 1


async def test_a_refusal_says_nothing_about_the_server(model: Make, chat_server: ChatServer) -> None:
    refusal = {"choices": [{"message": {"content": None, "refusal": "no"}}], "usage": {}}
    chat_server.reply = lambda body: refusal if "bad" in body["messages"][-1]["content"] else completion(json.dumps(GOOD))
    one = model()
    with pytest.raises(RequestError, match="refused"):
        await one.parse("a bad one", Verdict)
    await one.parse("a good one", Verdict)
    assert all("response_format" in request for request in chat_server.requests)


async def test_only_a_schema_that_the_server_rejects_is_added_to_the_prompt(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> web.Response | dict[str, Any]:
        if "response_format" in body and body["response_format"]["json_schema"]["name"] == "Verdict":
            return error(400, "Invalid schema for response_format 'Verdict'")
        return completion(json.dumps(GOOD | {"text": "x"}))

    chat_server.reply = reply
    one = model()
    await one.parse("Is it so?", Verdict)
    await one.parse("Is it so, again?", Verdict)
    await one.parse("Why?", Reason)
    assert ["response_format" in request for request in chat_server.requests] == [True, False, False, True]


async def test_every_request_counts_even_those_that_test_capabilities(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: error(400, "n must be 1") if "n" in body else None
    with pytest.raises(BudgetError, match="max_calls 1"):
        await model(max_calls=1).samples("q", 2)
    assert len(chat_server.requests) == 1


async def test_a_wrong_object_is_repaired_once(model: Make, chat_server: ChatServer) -> None:
    bad = json.dumps({**GOOD, "score": 9})
    chat_server.answer = lambda prompt, seen: json.dumps(GOOD) if "score" in prompt else bad
    assert (await model().parse("Is it so?", Verdict)).score == 4
    first, second = chat_server.requests
    assert second["messages"][:2] == [*first["messages"], {"role": "assistant", "content": bad}]
    assert "score: Input should be less than or equal to 5" in second["messages"][-1]["content"]
    assert len(current_log.get().calls) == 2


async def test_an_answer_that_stays_wrong_is_a_request_error_and_is_paid_once(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: "I would rather not."
    for _ in range(2):
        with pytest.raises(RequestError, match=r"not a valid Verdict, even after one repair attempt: .*I would rather not"):
            await model().parse("Is it so?", Verdict)
    assert len(chat_server.requests) == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"correct": true}',
        '  {"correct": true}\n',
        '```json\n{"correct": true}\n```',
        'I think:\n```\n{"correct": true}\n```\nas I said',
        'The verdict is {"correct": true}.',
    ],
)
def test_an_object_is_found_where_models_put_it(text: str) -> None:
    assert parse_answer(text, Verdict).correct is True


@pytest.mark.parametrize(
    "text", ["yes", '{"correct": "true"}', '{"correct": true, "score": "4"}', '{"correct": tr', "{}", "[true]"]
)
def test_almost_valid_objects_are_rejected(text: str) -> None:
    with pytest.raises(UnparsableError):
        parse_answer(text, Verdict)


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity"])
def test_an_answer_with_a_number_that_is_not_finite_is_rejected(number: str) -> None:
    class Weight(BaseModel):
        kg: float

    with pytest.raises(UnparsableError):
        parse_answer(f'{{"kg": {number}}}', Weight)


def test_only_the_first_of_many_problems_are_named() -> None:
    class Numbers(BaseModel):
        each: list[int]

    with pytest.raises(UnparsableError) as caught:
        parse_answer('{"each": [' + '"a", ' * 5000 + "1]}", Numbers)
    assert str(caught.value).count("valid integer") == 5


def test_properties_called_like_keywords_of_json_schema_survive() -> None:
    class Odd(BaseModel):
        title: str = "x"
        default: int
        properties: str
        type: str

    schema = json_schema(Odd)
    assert list(schema["properties"]) == ["title", "default", "properties", "type"]
    assert "default" not in schema["properties"]["title"]


# -- log-probabilities -----------------------------------------------------------------------------------------------


async def test_log_probabilities_come_with_the_answer(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        done = completion("Yes")
        if body.get("logprobs"):
            top = [{"token": token, "logprob": value} for token, value in (("Yes", -0.1), ("No", -2.5))]
            done["choices"][0]["logprobs"] = {
                "content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": top[: body["top_logprobs"]]}]
            }
        return done

    chat_server.reply = reply
    answer = await model().chat("q", logprobs=2)
    assert answer.logprobs
    assert [(each.token, each.logprob, each.top) for each in answer.logprobs] == [("Yes", -0.1, {"Yes": -0.1, "No": -2.5})]
    assert (await model().chat("q", logprobs=2)) == answer
    assert (await model().chat("q")).logprobs is None
    assert len(chat_server.requests) == 2


async def test_a_server_without_log_probabilities_stops_the_step_at_once(model: Make, chat_server: ChatServer) -> None:
    with pytest.raises(EndpointError, match="returns no log-probabilities"):
        await model().chat("q", logprobs=0)
    assert len(chat_server.requests) == 1


def test_every_capability_is_explained() -> None:
    assert set(MEANING) == {"n", "logprobs", "response_format", "sampling", "images", "tools"}


# -- requirements of some servers ------------------------------------------------------------------------------------------


async def test_a_model_that_wants_max_completion_tokens_gets_them(model: Make, chat_server: ChatServer) -> None:
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    chat_server.reply = lambda body: error(400, words) if "max_tokens" in body else None
    one = model(max_tokens=77)
    assert (await one.chat("q")).text == "You said: q"
    await one.chat("other")
    assert [request.get("max_completion_tokens") for request in chat_server.requests] == [None, 77, 77]


async def test_further_parameters_are_sent_and_are_part_of_the_key(model: Make, chat_server: ChatServer) -> None:
    await model().chat("q")
    await model(extra_body={"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}}).chat("q")
    assert len(chat_server.requests) == 2
    assert chat_server.requests[1]["top_k"] == 20
    with pytest.raises(ValueError, match="messages is set by the engine"):
        model(extra_body={"messages": []})
