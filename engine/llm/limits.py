"""How hard an endpoint is driven: requests in flight, requests and tokens a minute, and what may be spent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiolimiter import AsyncLimiter

from engine.llm.base import BudgetError, Completion, Request
from engine.spec import ModelSpec


class Gate:
    """One worker's share of a model's limits.

    Args:
        spec: the model.
        workers: how many workers share the limits; each gets an equal part.
        spent_usd: what the run has spent on this model before.
    """

    def __init__(self, spec: ModelSpec, workers: int = 1, spent_usd: float = 0.0) -> None:
        limits = spec.limits
        self._spec = spec
        self._in_flight = asyncio.Semaphore(max(1, limits.concurrency // workers))
        self._requests = _per_minute(limits.requests_per_minute, workers)
        self._tokens = _per_minute(limits.tokens_per_minute, workers)
        budget = spec.budget_usd
        self._left_usd = None if budget is None else (budget - spent_usd) / workers
        self._held: dict[int, float] = {}
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def admit(self, request: Request) -> AsyncIterator[None]:
        """Wait for a turn; raises BudgetError when the call could cost more than is left."""
        tokens_in, tokens_out = token_bound(request)
        async with AsyncExitStack() as held:
            await held.enter_async_context(self._in_flight)
            await self._hold(request, self.cost(tokens_in, tokens_out))
            if self._requests:
                await self._requests.acquire()
            if self._tokens:
                await self._tokens.acquire(min(tokens_in + tokens_out, self._tokens.max_rate))
            yield

    async def _hold(self, request: Request, cost: float) -> None:
        """Set aside what a call may cost while it is out; what calls in flight give back is waited for."""
        while self._left_usd is not None and cost > self._left_usd:
            if not self._held:
                raise BudgetError(
                    f"budget_usd {self._spec.budget_usd} of model {self._spec.model} is used up: "
                    f"${max(self._left_usd, 0):.4f} are left for this worker, and the next call may cost ${cost:.4f}"
                )
            self._settled.clear()
            await self._settled.wait()
        if self._left_usd is not None:
            self._left_usd -= cost
            self._held[id(request)] = cost

    def settle(self, request: Request, completion: Completion | None) -> None:
        """Replace what was set aside by what the call cost (nothing when it failed)."""
        if self._left_usd is not None:
            actual = self.cost(completion.tokens_in, completion.tokens_out) if completion else 0.0
            self._left_usd += self._held.pop(id(request), actual) - actual
            self._settled.set()

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Price of so many tokens in US dollars."""
        price = self._spec.price
        return (tokens_in * price.input + tokens_out * price.output) / 1e6


def token_bound(request: Request) -> tuple[int, int]:
    """At most so many prompt and completion tokens: a token is at least one byte; a message's frame is under 16."""
    prompt = sum(len(message["content"].encode()) + 16 for message in request.messages)
    return prompt, int(request.sampling["max_tokens"])


def _per_minute(rate: float | None, workers: int) -> AsyncLimiter | None:
    return AsyncLimiter(rate / workers, 60) if rate else None
