"""Items that do not wait share a task; those that do wait at the same time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterator

import pytest

from engine.worker.shapes.turns import in_turn

_CHANGED = contextvars.ContextVar("_CHANGED", default=0)


async def tasks_of(count: int, work: Callable[[int], Awaitable[None]]) -> list[asyncio.Task[None]]:
    """The task that each of the numbers below `count` was worked on in."""
    found: dict[int, asyncio.Task[None]] = {}

    async def process(numbers: Iterator[int]) -> None:
        for number in numbers:
            task = asyncio.current_task()
            assert task
            found[number] = task
            await work(number)

    await in_turn(range(count), process)
    assert [*found] == [*range(count)]
    return [*found.values()]


async def nothing(_: int) -> None:
    """Not even wait."""


@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_items_that_do_not_wait_share_a_task(count: int) -> None:
    assert len({*await tasks_of(count, nothing)}) == min(1, count)


async def test_items_wait_at_the_same_time() -> None:
    all_here = asyncio.Barrier(50)

    async def wait(_: int) -> None:
        async with asyncio.timeout(60):
            await all_here.wait()

    assert len({*await tasks_of(50, wait)}) == 50


async def test_an_item_that_waits_does_not_hold_up_the_others() -> None:
    last = asyncio.Event()

    async def work(number: int) -> None:
        if number == 3:
            await last.wait()
        if number == 9:
            last.set()

    tasks = await tasks_of(10, work)
    assert len({*tasks[:4]}) == len({*tasks[4:]}) == 1
    assert tasks[3] is not tasks[4]


async def test_no_item_sees_the_context_variables_of_another() -> None:
    async def work(number: int) -> None:
        assert _CHANGED.get() == 0
        if number % 2:
            _CHANGED.set(number)

    assert len({*await tasks_of(10, work)}) == 5
    assert _CHANGED.get() == 0


async def test_a_context_variable_that_is_reset_makes_no_difference() -> None:
    async def work(number: int) -> None:
        _CHANGED.reset(_CHANGED.set(number))

    assert len({*await tasks_of(10, work)}) == 1


@pytest.mark.parametrize("raised", [KeyError("five"), asyncio.CancelledError("five")])
async def test_an_error_ends_the_other_items(raised: BaseException) -> None:
    ended = list[int]()

    async def work(number: int) -> None:
        if number == 5:
            raise raised
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with pytest.raises(type(raised)):
        await tasks_of(10, work)
    await asyncio.sleep(0)
    assert {*ended} >= {0, 1, 2, 3, 4}


async def test_cancellation_reaches_all_items() -> None:
    waiting, ended = asyncio.Semaphore(0), list[int]()

    async def work(number: int) -> None:
        try:
            waiting.release()
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    whole = asyncio.create_task(tasks_of(3, work))
    for _ in range(3):
        await waiting.acquire()
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    await asyncio.sleep(0)
    assert sorted(ended) == [0, 1, 2]
