"""All requests share one time limit while an endpoint is down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engine.llm import client, retries
from engine.llm.limits import outage
from engine.llm.limits.accounting import CallOutcome
from engine.llm.limits.estimates import Estimate
from engine.llm.limits.governor import Governor
from engine.llm.limits.outage import PATIENCE_SECONDS, Outage, Refusal
from engine.llm.types.errors import EndpointError, RequestError
from engine.llm.types.model_spec import ModelSpec
from tests.chat_server import ChatServer, error
from tests.clock import Clock
from tests.engine.conftest import Make

REFUSED = CallOutcome("failed", down=True, unreachable=True, why="nobody answers")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def governor(clock: Callable[[], float], **limits: Any) -> Governor:
    """The limits of a model that has answered before in this run."""
    spec = {"provider": "openai", "model": "m", "limits": {"concurrency": 64, **limits}}
    return Governor(ModelSpec.model_validate(spec), calls=1, clock=clock)


async def ride_out(gate: Governor, clock: Clock, seconds: float) -> tuple[list[float], list[int | BaseException]]:
    """Send 64 requests to an endpoint that is down for a time; return when it was called, and the outcome of each request."""
    gate.window = type(gate.window)(64, clock, gently=False)
    tickets = [await gate.admit(Estimate(str(number))) for number in range(64)]
    for ticket in tickets:
        gate.release(ticket, REFUSED)
    again = [asyncio.create_task(gate.admit(Estimate(str(number)))) for number in range(64)]
    asked = []
    while clock.now < seconds and gate._stopped is None:
        await asyncio.sleep(0)
        let_out = [task for task in again if task.done() and not task.exception()]
        if let_out:
            assert len(let_out) == 1, "one request looks, the others wait"
            again.remove(let_out[0])
            asked.append(clock.now)
            gate.release(let_out[0].result(), REFUSED)
            again.append(asyncio.create_task(gate.admit(Estimate("again"))))
        else:
            clock.now += 0.1
            gate._admit_waiting()
    clock.now += 10
    for task in again:  # the first finds it up
        gate._admit_waiting()
        await asyncio.sleep(0)
        if task.done() and not task.exception():
            gate.release(task.result(), CallOutcome("answered"))
    return asked, await asyncio.gather(*again, return_exceptions=True)


@pytest.mark.parametrize("seconds", [40, 120])
async def test_during_an_outage_one_request_checks_the_endpoint(clock: Clock, seconds: float) -> None:
    asked, ends = await ride_out(governor(clock), clock, seconds)
    assert seconds / 7 < len(asked) < seconds
    assert all(isinstance(end, int) for end in ends)


async def test_patience_ends_for_all_requests_at_once(clock: Clock) -> None:
    asked, ends = await ride_out(governor(clock, patience=20), clock, 1000)
    assert 20 <= asked[-1] < 26
    assert {str(end) for end in ends if isinstance(end, EndpointError)} == {
        "the endpoint was down for 20 s; last error: nobody answers. Answers so far are kept: run again when it is up, or raise "
        "limits.patience (seconds)"
    }
    assert len([end for end in ends if isinstance(end, EndpointError)]) == 64


def test_an_endpoint_that_never_answered_gets_only_its_retries(clock: Clock) -> None:
    state = Outage(None, 2, heard=False, clock=clock)
    for looked in range(3):
        assert state.given_up() == ""
        state.failed("q", "nobody answers", unreachable=True, probe=looked > 0)
    assert state.given_up() == "no answer after 3 attempts; last error: nobody answers"


def test_one_failing_request_is_not_an_outage(clock: Clock) -> None:
    state = Outage(None, 2, heard=True, clock=clock)
    for _ in range(10):
        state.failed("q", "a gateway time-out", unreachable=False, probe=False)
    assert not state.down
    for key in ("r", "s"):
        state.failed(key, "a gateway time-out", unreachable=False, probe=False)
    assert state.down
    state.failed("t", "later", 60.0, unreachable=False, probe=True)
    assert state.wait() == 60.0
    state.alive(answered=True)
    assert not state.down


@pytest.mark.parametrize(("patience", "seconds"), [(None, 150), (20, 20)])
def test_an_endpoint_that_accepts_nothing_is_given_up(clock: Clock, patience: float | None, seconds: int) -> None:
    state = Refusal(patience, clock)
    for key in "abc":
        assert state.throttled(key, "429: busy") == ""
    clock.now += seconds - 1
    assert state.throttled("a", "429: busy") == ""
    clock.now += 1
    assert state.throttled("a", "429: busy") == (
        f"the endpoint has accepted no request for {seconds} s; last error: 429: busy. Answers so far are kept: run again when "
        "its limits allow it, or raise limits.patience (seconds)"
    )


def test_an_answer_renews_the_patience_with_an_endpoint_that_accepts_nothing(clock: Clock) -> None:
    state = Refusal(20, clock)
    for key in "abc":
        state.throttled(key, "429: busy")
    clock.now += 19
    state.end()
    for key in "abc":
        assert state.throttled(key, "429: busy") == ""
    clock.now += 19
    assert state.throttled("a", "429: busy") == ""


async def test_429s_while_a_request_is_in_flight_are_no_refusal_of_all(clock: Clock) -> None:
    gate = governor(clock, patience=0)
    gate.window = type(gate.window)(64, clock, gently=False)
    _, *busy = [await gate.admit(Estimate(str(number))) for number in range(5)]
    for ticket in busy:
        gate.release(ticket, CallOutcome("throttled", why="429: busy"))
    assert gate._stopped is None


async def test_a_server_that_only_answers_429_ends_the_step_and_rejects_no_row(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: error(429, "busy", **{"Retry-After": "0"})
    one = model(retries=1, limits={"concurrency": 4, "patience": 0.3})
    ends = await asyncio.gather(*[one.chat(str(number)) for number in range(20)], return_exceptions=True)
    assert {type(end) for end in ends} == {EndpointError}
    assert all("the endpoint has accepted no request for" in str(end) for end in ends)
    assert all("429: busy" in str(end) for end in ends)


async def test_a_request_that_alone_is_always_answered_429_is_rejected(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: error(429, "too large", **{"Retry-After": "0"}) if prompt == "large" else prompt
    one = model(retries=1, limits={"patience": 0.1})
    await one.chat("small")
    with pytest.raises(RequestError, match="429: too large"):
        await one.chat("large")
    assert (await one.chat("other")).text == "other"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes pauses a hundred times shorter."""
    monkeypatch.setattr(outage, "_FIRST_PAUSE", 0.005)
    monkeypatch.setattr(outage, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(retries, "_CAP_SECONDS_DOWN", 0.02)
    assert PATIENCE_SECONDS >= 120


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [502, 503, 500])
async def test_no_row_is_lost_while_a_server_restarts(model: Make, chat_server: ChatServer, status: int) -> None:
    """There are far more failures than one request has attempts, at full concurrency."""
    one = model(retries=2, limits={"concurrency": 64})
    for number in range(5):
        await one.chat(f"before {number}")
    left = 40

    def answer(prompt: str, seen: int) -> Any:
        nonlocal left
        left -= 1
        return error(status, "restarting") if left > 0 else prompt

    chat_server.answer = answer
    chat_server.latency = 0.005
    answers = await asyncio.gather(*[one.chat(f"row {number}") for number in range(100)])
    assert [each.text for each in answers] == [f"row {number}" for number in range(100)]


@pytest.mark.usefixtures("quick")
async def test_a_server_that_stays_down_ends_the_step_once(model: Make) -> None:
    with ChatServer() as server:
        one = model(base_url=server.base_url, limits={"concurrency": 16, "patience": 0.3})
        await one.chat("before")
    ends = await asyncio.gather(*[one.chat(str(number)) for number in range(50)], return_exceptions=True)
    assert {type(end) for end in ends} == {EndpointError}
    assert all("the endpoint was down for 0.3 s; last error: cannot connect to" in str(end) for end in ends)


@pytest.mark.usefixtures("quick")
async def test_a_server_that_fails_on_all_requests_from_the_first_ends_the_step(
    model: Make, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "seconds_to_wait", lambda *_: 0.01)
    chat_server.answer = lambda prompt, seen: error(500, "oops")
    one = model(retries=3, limits={"concurrency": 4})
    ends = await asyncio.gather(*[one.chat(str(number)) for number in range(100)], return_exceptions=True)
    assert {type(end) for end in ends} == {EndpointError}
    assert all("no answer after" in str(end) and "500: oops" in str(end) for end in ends)
    assert len(chat_server.requests) < 100


@pytest.mark.usefixtures("quick")
async def test_a_few_failures_before_the_first_answer_are_no_outage(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: error(500, "oops") if int(prompt) < 10 else prompt
    one = model(retries=0, limits={"concurrency": 4})
    ends = await asyncio.gather(*[one.chat(str(number)) for number in range(20)], return_exceptions=True)
    assert [type(end) for end in ends[:10]] == [RequestError] * 10
    assert [end.text for end in ends[10:]] == [str(number) for number in range(10, 20)]  # type: ignore[union-attr]


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_row_that_the_server_always_fails_on_is_rejected(
    model: Make, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(client, "seconds_to_wait", lambda *_: 0.01)
    chat_server.answer = lambda prompt, seen: error(status, "oops") if prompt == "poison" else prompt
    one = model(retries=2, limits={"patience": 0.1})
    ends = await asyncio.gather(*[one.chat(prompt) for prompt in ("a", "poison", "b")], return_exceptions=True)
    assert isinstance(ends[1], RequestError)
    assert "no answer after 3 attempts" in str(ends[1])
    with pytest.raises(RequestError, match=f"{status}: oops"):  # also when it is the only one left
        await one.chat("poison")
    assert (await one.chat("c")).text == "c"
