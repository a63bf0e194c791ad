"""Requests use all that the user and the endpoint allow, and never exceed the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engine.llm.limits.accounting import CallOutcome
from engine.llm.limits.adaptive_window import START, START_SECONDS, Window
from engine.llm.limits.estimates import Estimate
from engine.llm.limits.governor import Bucket, Governor
from engine.llm.types.errors import BudgetError
from engine.llm.types.model_spec import ModelSpec
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def governor(clock: Callable[[], float], **spec: Any) -> Governor:
    """The limits of a model."""
    return Governor(ModelSpec.model_validate({"provider": "openai", "model": "m", **spec}), clock=clock)


def serve(window: Window, carries: int, answers: int, clock: Clock) -> tuple[int, list[int]]:
    """Run a window against a server with a capacity; return the number of 429s, and the requests in flight at each answer."""
    in_flight: list[int] = []  # epochs
    throttled, seen = 0, []
    while len(seen) < answers:
        clock.now += 0.001 + window.pause()
        window.open_further()
        while len(in_flight) < window.size():
            in_flight.append(window.epoch)
            if len(in_flight) > carries:
                throttled += 1
                window.throttled(in_flight.pop(), len(in_flight), None)
        seen.append(len(in_flight))
        if in_flight:
            in_flight.pop(0)
            window.answered()
    return throttled, seen


# -- the window ------------------------------------------------------------------------------------------------------


def test_a_window_opens_step_by_step_and_is_open_within_a_moment(clock: Clock) -> None:
    window = Window(64, clock)
    sizes = [window.size()]
    while window.starting:
        window.open_further()
        sizes.append(window.size())
    assert sizes == [START * step for step in range(1, 9)]
    assert START_SECONDS * len(sizes) < 0.05


def test_a_window_stays_at_the_servers_limit_and_rarely_probes_beyond(clock: Clock) -> None:
    throttled, seen = serve(Window(64, clock), 16, 1000, clock)
    assert throttled < 25
    assert sum(seen[200:]) / len(seen[200:]) > 14
    assert max(seen) == 16


def test_a_window_grows_back_when_the_server_recovers(clock: Clock) -> None:
    window = Window(64, clock)
    serve(window, 8, 500, clock)
    assert window.size() <= 9
    throttled, _ = serve(window, 1000, 5000, clock)
    assert throttled == 0
    assert window.size() == 64


def test_one_round_of_requests_cuts_the_window_down_once(clock: Clock) -> None:
    window = Window(64, clock, gently=False)
    epoch = window.epoch
    for carried in range(63, 31, -1):
        window.throttled(epoch, carried, None)
    assert window.size() == int(32 * 0.8)


def test_a_server_that_accepts_nothing_pauses_all_requests_for_its_retry_after(clock: Clock) -> None:
    window = Window(8, clock)
    window.throttled(window.epoch, 7, 3.0)
    assert window.pause() == 0  # others may still be served
    window.throttled(window.epoch, 0, 3.0)
    assert window.pause() == 3.0
    clock.now += 3
    assert window.pause() == 0
    window.answered()
    window.throttled(window.epoch, 3, 3.0)
    assert window.pause() == 0


# -- buckets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [5, 60, 3000, 400_000])
def test_a_bucket_never_exceeds_its_rate_in_any_minute(clock: Clock, per_minute: float) -> None:
    bucket, amount, out = Bucket(per_minute, clock), max(1, per_minute // 500), []
    while clock.now < 200:
        wait = bucket.wait(amount)
        if wait > 0:
            clock.now += wait + 1e-9
            continue
        bucket.take(amount)
        out.append(clock.now)
    for start in out:
        assert sum(start <= moment < start + 60 for moment in out) * amount <= per_minute + amount
    assert len(out) * amount >= 0.75 * per_minute * clock.now / 60


def test_a_bucket_is_corrected_by_actual_usage(clock: Clock) -> None:
    bucket = Bucket(6000, clock)
    bucket.take(200)
    assert bucket.wait(100) > 0
    bucket.give_back(150)
    assert bucket.wait(100) == 0
    bucket.give_back(-500)
    assert bucket.wait(1) > 3.6


def test_a_request_larger_than_the_bucket_goes_out_when_it_is_full(clock: Clock) -> None:
    bucket = Bucket(60, clock)
    assert bucket.wait(1000) == 0
    bucket.take(1000)
    assert bucket.wait(1) > 900


# -- the governor ----------------------------------------------------------------------------------------------------


async def test_requests_go_out_in_order_and_no_more_than_allowed(clock: Clock) -> None:
    gate = governor(clock, limits={"concurrency": 2})
    order: list[int] = []

    async def go(number: int) -> None:
        ticket = await gate.admit(Estimate(str(number)))
        order.append(number)
        await asyncio.sleep(0)
        gate.release(ticket, CallOutcome("answered"))

    tasks = [asyncio.create_task(go(number)) for number in range(9)]
    await asyncio.sleep(0)
    assert len(order) <= 2
    await asyncio.gather(*tasks)
    assert order == list(range(9))


async def test_equal_requests_go_out_one_after_the_other(clock: Clock) -> None:
    gate = governor(clock)
    first = await gate.admit(Estimate("same"))
    second = asyncio.create_task(gate.admit(Estimate("same")))
    other = await gate.admit(Estimate("other"))
    await asyncio.sleep(0)
    assert not second.done()
    gate.release(first, CallOutcome("answered"))
    gate.release(await second, CallOutcome("answered"))
    gate.release(other, CallOutcome("answered"))


async def test_a_cancelled_request_takes_no_place(clock: Clock) -> None:
    gate = governor(clock, limits={"concurrency": 1})
    first = await gate.admit(Estimate("a"))
    waiting = asyncio.create_task(gate.admit(Estimate("b")))
    await asyncio.sleep(0)
    waiting.cancel()
    gate.release(first, CallOutcome("answered"))  # in the same moment
    await asyncio.gather(waiting, return_exceptions=True)
    gate.release(await gate.admit(Estimate("c")), CallOutcome("answered"))


async def test_requests_a_minute_are_spread() -> None:
    gate = governor(asyncio.get_running_loop().time, limits={"requests_per_minute": 600})
    asked = [asyncio.create_task(gate.admit(Estimate(str(number)))) for number in range(40)]
    done, waiting = await asyncio.wait(asked, timeout=0.5)
    assert 20 <= len(done) < 40
    for task in waiting:
        task.cancel()


async def test_a_budget_is_used_up_only_after_calls_in_flight_have_returned_their_surplus(clock: Clock) -> None:
    gate = governor(clock, budget_usd=1.0, price={"output": 1})
    first = await gate.admit(Estimate("a", cost=0.6))
    second = asyncio.create_task(gate.admit(Estimate("b", cost=0.6)))
    await asyncio.sleep(0)
    assert not second.done()
    gate.release(first, CallOutcome("answered", cost=0.1))
    gate.release(await second, CallOutcome("answered", cost=0.5))
    with pytest.raises(BudgetError, match=r"budget_usd 1 of model m is used up: \$0.6000 spent, \$0.4000 left"):
        await gate.admit(Estimate("c", cost=0.6))
    gate.release(await gate.admit(Estimate("d", cost=0.4)), CallOutcome("answered", cost=0.4))


async def test_calls_count_however_they_end(clock: Clock) -> None:
    gate = governor(clock, max_calls=2)
    for kind in ("failed", "throttled"):
        gate.release(await gate.admit(Estimate("a")), CallOutcome(kind))  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="max_calls 2 of model m is used up"):
        await gate.admit(Estimate("a"))
