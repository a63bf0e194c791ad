"""The servers of one model, as a worker sees them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from engine.llm.providers.replicas import Replicas
from engine.llm.types.errors import EndpointError
from engine.llm.types.model_spec import Address

ONE, TWO = Address("http://127.0.0.1:1/v1", "m"), Address("http://127.0.0.1:2/v1", "m")


async def test_a_request_goes_to_the_one_with_the_fewest_in_flight() -> None:
    replicas = Replicas()
    replicas.update([ONE, TWO])
    async with AsyncExitStack() as held:
        assert [await held.enter_async_context(replicas.use(str(number))) for number in range(4)] == [ONE, TWO, ONE, TWO]
        async with replicas.use("x") as first:
            assert first == ONE
        assert await held.enter_async_context(replicas.use("y")) == ONE


async def test_requests_wait_until_a_server_answers() -> None:
    replicas = Replicas()

    async def used(key: str) -> Address:
        async with replicas.use(key) as address:
            return address

    waiting = [asyncio.create_task(used(key)) for key in ("a", "a", "b")]  # two steps may ask the same
    await asyncio.sleep(0.01)
    replicas.release(["b"], EndpointError("the step has failed"))
    with pytest.raises(EndpointError, match="the step has failed"):
        await waiting[2]
    replicas.update([ONE])
    assert await asyncio.gather(*waiting[:2]) == [ONE, ONE]


async def test_one_that_refuses_is_shunned_until_there_is_news() -> None:
    replicas = Replicas()
    replicas.update([ONE, TWO])
    assert replicas.shun(ONE)
    async with replicas.use("a") as address, replicas.use("b") as other:
        assert address == other == TWO
    assert not replicas.shun(TWO)
    replicas.update([ONE])
    async with replicas.use("c") as address:
        assert address == ONE
