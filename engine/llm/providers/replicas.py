"""The servers of one model, as a worker sees them: each request goes to the one with the fewest in flight."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from engine.llm.types.errors import ModelError
from engine.llm.types.model_spec import Address

_SHUN_SECONDS = 2.0
"""How long a server that refused a connection gets no request, unless there is news of the servers."""


class Replicas:
    """The servers that answer now. Use from one event loop."""

    def __init__(self) -> None:
        self._addresses: tuple[Address, ...] = ()
        self._in_flight: Counter[Address] = Counter()
        self._shunned: dict[Address, float] = {}
        self._waiting: dict[asyncio.Future[None], str] = {}

    def update(self, addresses: Sequence[Address]) -> None:
        """These servers answer now, and no others."""
        self._addresses = tuple(addresses)
        self._shunned.clear()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    @asynccontextmanager
    async def use(self, key: str) -> AsyncIterator[Address]:
        """The server for a request, as soon as one answers.

        Raises:
            ModelError: see `release`.
        """
        address = await self._free(key)
        self._in_flight[address] += 1
        try:
            yield address
        finally:
            self._in_flight[address] -= 1

    def shun(self, address: Address) -> bool:
        """Send nothing to a server for a while; returns whether another one answers."""
        self._shunned[address] = time.monotonic() + _SHUN_SECONDS
        return bool(self._usable())

    def release(self, keys: Collection[str], why: ModelError) -> None:
        """The requests with these keys, if they wait for a server, fail with `why`."""
        for waiting, key in self._waiting.items():
            if key in keys and not waiting.done():
                waiting.set_exception(type(why)(str(why)))

    async def _free(self, key: str) -> Address:
        while not (usable := self._usable()):
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[waiting] = key
            try:
                # A shunned server is tried again.
                await asyncio.wait_for(waiting, _SHUN_SECONDS if self._addresses else None)
            except TimeoutError:
                pass
            finally:
                del self._waiting[waiting]
        return min(usable, key=lambda address: self._in_flight[address])

    def _usable(self) -> list[Address]:
        now = time.monotonic()
        return [address for address in self._addresses if self._shunned.get(address, 0.0) <= now]
