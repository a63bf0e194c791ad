"""Answers are journalled before they are used, failures are classified, limits hold, keys stay secret."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from aiohttp import web

from engine.llm.chat import current_log
from engine.llm.limits.accounting import Spent
from engine.llm.types.errors import BudgetError, EndpointError, RequestError, StoppedError
from engine.llm.types.requests import Request
from tests.chat_server import ChatServer, completion, error
from tests.engine.conftest import Make


async def test_an_answer_has_token_counts_and_is_requested_once(model: Make, chat_server: ChatServer) -> None:
    first = await model().chat("hello")
    again = await model().chat([{"role": "user", "content": "hello"}])
    assert (first.text, first.tokens_in, first.tokens_out) == ("You said: hello", 10, 5)
    assert again == first
    assert chat_server.prompts == ["hello"]
    assert [call.reused for call in current_log.get().calls] == [False, True]


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({}, 1),
        ({"limits": {"concurrency": 2}, "retries": 5, "timeout": 9, "price": {"input": 1}, "budget_usd": 3}, 1),
        ({"temperature": 0.1}, 2),
        ({"top_p": 0.5}, 2),
        ({"max_tokens": 7}, 2),
        ({"seed": 1}, 2),
        ({"stop": ["x"]}, 2),
        ({"model": "other"}, 2),
    ],
)
async def test_the_key_contains_exactly_what_affects_the_answer(
    model: Make, chat_server: ChatServer, change: dict[str, Any], asked: int
) -> None:
    await model().chat("hello")
    await model(**change).chat("hello")
    assert len(chat_server.requests) == asked


async def test_samples_of_one_prompt_are_separate_and_added_to(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: f"answer {seen}"
    assert len({(await model().chat("q", sample=sample)).text for sample in range(3)}) == 3
    for sample in range(5):
        await model().chat("q", sample=sample)
    assert len(chat_server.requests) == 5


async def test_equal_requests_at_the_same_time_share_one_call(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.05
    one = model()
    answers = await asyncio.gather(*[one.chat("same") for _ in range(10)])
    assert len(chat_server.requests) == 1
    assert len({answer.text for answer in answers}) == 1


async def test_transient_failures_are_retried(model: Make, chat_server: ChatServer) -> None:
    failures = [error(500, "oops"), error(429, "slow down", **{"Retry-After": "0"})]
    chat_server.answer = lambda prompt, seen: failures[seen] if seen < len(failures) else "fine"
    assert (await model(retries=3).chat("q")).text == "fine"
    assert len(chat_server.requests) == 3


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_request_is_not_retried(model: Make, chat_server: ChatServer, status: int) -> None:
    chat_server.answer = lambda prompt, seen: error(status, "the server's words")
    with pytest.raises(RequestError, match=f"{status}: the server's words"):
        await model().chat("q")
    assert len(chat_server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_endpoint_that_cannot_answer_stops_at_once(model: Make, chat_server: ChatServer, status: int) -> None:
    chat_server.answer = lambda prompt, seen: error(status, "no such thing")
    with pytest.raises(EndpointError, match=f"{status}: no such thing"):
        await model().chat("q")
    assert len(chat_server.requests) == 1


async def test_an_unreachable_server_is_an_endpoint_error(model: Make) -> None:
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9"):
        await model(base_url="http://127.0.0.1:9/v1", retries=0).chat("q")


@pytest.mark.parametrize("answer", ["", "  \n "])
async def test_an_empty_answer_is_an_error_and_is_not_journalled(model: Make, chat_server: ChatServer, answer: str) -> None:
    chat_server.answer = lambda prompt, seen: answer
    with pytest.raises(RequestError, match="empty answer"):
        await model().chat("q")
    chat_server.answer = lambda prompt, seen: "now there is one"
    assert (await model().chat("q")).text == "now there is one"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": 3}}]}'])
async def test_a_broken_body_is_a_transient_failure(model: Make, chat_server: ChatServer, body: bytes) -> None:
    chat_server.answer = lambda prompt, seen: web.Response(body=body, content_type="application/json") if not seen else "fine"
    assert (await model().chat("q")).text == "fine"


async def test_a_slow_answer_times_out(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 5
    with pytest.raises(RequestError, match=r"no answer within 0\.05 s"):
        await model(timeout=0.05, retries=0).chat("q")


async def test_the_key_is_sent_and_never_shown(model: Make, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    await model(api_key_env="TEST_KEY").chat("q")
    assert chat_server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    chat_server.answer = lambda prompt, seen: error(401, "Incorrect API key provided: sk-very-secret")
    with pytest.raises(EndpointError) as wrong:
        await model(api_key_env="TEST_KEY", temperature=0).chat("q")
    assert "sk-very-secret" not in str(wrong.value)
    assert "TEST_KEY" in str(wrong.value)


async def test_the_same_question_of_two_processes_has_one_answer(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.05
    chat_server.answer = lambda prompt, seen: f"answer {seen}"
    one, other = await asyncio.gather(model().chat("q"), model().chat("q"))  # two clients that know nothing of each other
    assert len(chat_server.requests) == 2
    assert one == other == await model().chat("q")


async def test_a_cancelled_row_does_not_affect_others(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.2
    one = model()
    first = asyncio.create_task(one.chat("q"))
    follower = asyncio.create_task(one.chat("q"))
    await asyncio.sleep(0.05)
    first.cancel()
    assert (await follower).text == "You said: q"


async def test_sampling_parameters_of_a_call_are_validated_and_normalized(model: Make, chat_server: ChatServer) -> None:
    await model(temperature=0.0).chat("q")
    await model().chat("q", temperature=0)
    assert len(chat_server.requests) == 1
    with pytest.raises(ValueError, match="temprature"):
        await model().chat("q", temprature=0)


async def test_a_key_that_is_missing_on_the_workers_machine_is_reported(model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(EndpointError, match="TEST_KEY is not set on"):
        await model(api_key_env="TEST_KEY").chat("q")


async def test_no_more_requests_are_in_flight_than_allowed(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.02
    one = model(limits={"concurrency": 4})
    await asyncio.gather(*[one.chat(str(number)) for number in range(30)])
    assert chat_server.most_in_flight == 4


async def test_a_budget_waits_for_surplus_of_calls_in_flight(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.01
    # A call costs half a dollar, and could cost ten; eleven dollars are enough for twenty calls, one after another.
    one = model(price={"output": 100_000}, max_tokens=100, budget_usd=20)
    await asyncio.gather(*[one.chat(str(number)) for number in range(20)])
    assert len(chat_server.requests) == 20


async def test_a_budget_is_never_exceeded(model: Make, chat_server: ChatServer) -> None:
    # Each call costs 5 x 0.1 = 0.5 dollars and may cost 10 x 0.1 = 1 dollar.
    one = model(price={"output": 100_000}, max_tokens=10, budget_usd=2.2)
    for number in range(3):
        await one.chat(str(number))
    with pytest.raises(BudgetError, match=r"budget_usd 2\.2"):
        await one.chat("3")
    assert len(chat_server.requests) == 3
    assert (await one.chat("0")).text == "You said: 0"  # what was paid for is free


def request(prompt: str, **sampling: Any) -> Request:
    wanted = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 8, "stop": (), "seed": None, **sampling}
    return Request("openai", "any", ({"role": "user", "content": prompt},), wanted)


def test_a_key_is_a_digest_of_canonical_json() -> None:
    assert request("q").key == request("q").key
    assert request("q").key != request("q", max_tokens=9).key


# -- failures by class -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, {"message": "The model `gpt-9` does not exist", "code": "model_not_found"}, "check base_url and the model name"),
        (400, {"message": "Model Not Exist"}, "check base_url and the model name"),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "no quota left"),
        (401, {"message": "Incorrect API key"}, "set api_key_env"),
        (402, {"message": "Insufficient Balance"}, "no quota left"),
        (200, {"message": "No auth credentials found", "code": 401}, "401: No auth credentials found"),
        (307, {"message": "moved"}, "redirects to .*correct base_url"),
    ],
)
async def test_endpoint_errors_are_distinguished_from_request_errors(
    model: Make, chat_server: ChatServer, status: int, body: dict[str, str], said: str
) -> None:
    chat_server.answer = lambda prompt, seen: web.json_response({"error": body}, status=status)
    with pytest.raises(EndpointError, match=said):
        await model().chat("q")
    assert len(chat_server.requests) == 1


async def test_a_429_does_not_count_as_an_attempt_while_other_requests_succeed(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: (
        error(429, "busy", **{"Retry-After": "0"}) if prompt == "q" and seen < 5 else f"{prompt} {seen}"
    )
    one = model(retries=1, limits={"concurrency": 1})
    asked = asyncio.create_task(one.chat("q"))
    number = 0
    while not asked.done():
        await one.chat(str(number := number + 1))
    assert (await asked).text == "q 5"


@pytest.mark.proof
async def test_the_window_adapts_to_a_small_server_and_every_row_is_answered(model: Make, chat_server: ChatServer) -> None:
    """1,000 rows, 64 asked for, 2 % transient 500s, 429 with Retry-After above 16 in flight."""
    draw = random.Random(3)
    chat_server.latency, chat_server.carries = 0.01, 16
    chat_server.answer = lambda prompt, seen: error(500, "a hiccup") if draw.random() < 0.02 else prompt
    one = model(retries=6, limits={"concurrency": 64})
    answers = await asyncio.gather(*[one.chat(f"row {number}") for number in range(1000)])
    assert [answer.text for answer in answers] == [f"row {number}" for number in range(1000)]
    assert chat_server.throttled < 50
    assert chat_server.most_in_flight == 16


@pytest.mark.proof
async def test_many_failures_at_once_lose_and_duplicate_no_row(model: Make, chat_server: ChatServer) -> None:
    """429s to all for a while, resets, slow answers and truncated bodies, all in one."""
    draw = random.Random(5)

    def reply(body: dict[str, Any]) -> web.Response | dict[str, Any]:
        prompt, arrived = body["messages"][-1]["content"], len(chat_server.requests)
        if 50 < arrived < 120:
            return error(429, "a storm", **{"Retry-After": "0.05"})
        dice = draw.random()
        if dice < 0.03:
            raise ConnectionResetError  # the server drops the connection
        if dice < 0.06:
            return web.Response(body=json.dumps(completion(prompt)).encode()[:-30], content_type="application/json")
        return completion(prompt)

    chat_server.reply = reply
    chat_server.hold = lambda body: 0.5 if draw.random() < 0.03 else 0.0
    one = model(retries=20, timeout=0.25, limits={"concurrency": 32})
    answers = await asyncio.gather(*[one.chat(f"row {number}") for number in range(200)])
    assert [answer.text for answer in answers] == [f"row {number}" for number in range(200)]
    calls = current_log.get().calls
    assert len({call.call_id for call in calls}) == len(calls) == 200


# -- system messages, seeds ------------------------------------------------------------------------------------------


async def test_a_system_message_precedes_prompts_that_have_none(model: Make, chat_server: ChatServer) -> None:
    one = model(system="Be brief.")
    await one.chat("q")
    await one.chat([{"role": "system", "content": "Be long."}, {"role": "user", "content": "q"}])
    await model().chat("q")
    assert [request["messages"][0]["content"] for request in chat_server.requests] == ["Be brief.", "Be long.", "q"]


async def test_each_sample_of_a_seeded_model_has_another_seed(model: Make, chat_server: ChatServer) -> None:
    one = model(seed=7)
    for sample in range(3):
        await one.chat("q", sample=sample)
    assert [request["seed"] for request in chat_server.requests] == [7, 8, 9]


# -- stopping --------------------------------------------------------------------------------------------------------


async def test_a_stop_fails_all_waiting_requests(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: error(503, "later", **{"Retry-After": "60"}) if prompt == "busy" else "fine"
    one = model(limits={"requests_per_minute": 1})
    waiting = [asyncio.create_task(one.chat(prompt)) for prompt in ("busy", "second", "third")]
    await asyncio.to_thread(chat_server.wait_for_request, 5)
    one._model.stop(StoppedError("enough"))
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), timeout=5)
    assert [str(result) for result in results] == ["enough"] * 3
    with pytest.raises(StoppedError):
        await one.chat("fourth")
    assert len(chat_server.requests) == 1


# -- money -----------------------------------------------------------------------------------------------------------


async def test_a_row_that_is_cancelled_while_the_step_stops_is_cancelled(model: Make, chat_server: ChatServer) -> None:
    """Both cancel requests that wait for the limits. Only a row that is not cancelled otherwise gets the stop as its error."""
    one = model(limits={"concurrency": 1})
    chat_server.latency = 0.2
    sent = asyncio.ensure_future(one.chat("sent"))
    await asyncio.to_thread(chat_server.wait_for_request, 5)
    kept, cancelled = (asyncio.ensure_future(one.chat(text)) for text in ("kept", "cancelled"))
    await asyncio.sleep(0)
    one._model.stop(StoppedError("enough"))
    cancelled.cancel()
    with pytest.raises(StoppedError, match="enough"):
        await kept
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert (await sent).text
    assert not kept.cancelling()


async def test_without_token_counts_budgets_assume_the_maximum(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: {"choices": [{"message": {"content": "x"}}]}
    one = model(price={"output": 100_000}, max_tokens=10, budget_usd=2.2)  # a dollar a call, at most
    for number in range(2):
        await one.chat(str(number))
    with pytest.raises(BudgetError):
        await one.chat("2")


async def test_a_refusal_is_paid_for(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: {
        "choices": [{"message": {"content": None, "refusal": "I would rather not."}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }
    one = model(price={"output": 100_000})
    with pytest.raises(RequestError, match="I would rather not"):
        await one.chat("q")
    assert [(call.completion.tokens_out, call.cost_usd) for call in current_log.get().calls] == [(5, 0.5)]
    assert one._model._gate.spent == Spent(usd=0.5, calls=1)


async def test_successful_samples_are_kept_when_others_fail(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: completion("x") if len(chat_server.requests) < 3 else error(400, "no more")
    one = model()
    with pytest.raises(RequestError, match="no more"):
        await one.samples("q", 4)
    assert [call.reused for call in current_log.get().calls] == [False, False]


# -- odd answers -----------------------------------------------------------------------------------------------------


async def test_an_answer_in_parts_is_put_together(model: Make, chat_server: ChatServer) -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "It is "}, {"type": "text", "text": "4."}]
    chat_server.reply = lambda body: completion(parts)
    assert (await model().chat("q")).text == "It is 4."


async def test_a_key_at_the_edge_of_a_long_error_is_hidden(
    model: Make, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret-and-quite-long")
    chat_server.answer = lambda prompt, seen: error(400, "x" * 490 + "sk-very-secret-and-quite-long")
    with pytest.raises(RequestError) as wrong:
        await model(api_key_env="TEST_KEY").chat("q")
    assert "sk-" not in str(wrong.value)
