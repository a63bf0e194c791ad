"""How hard a model is driven: requests in flight, requests and tokens a minute, and what may be spent.

One `Governor` stands before a model, for all who use it at the same time. It knows neither HTTP nor Ray.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from engine.llm.limits.accounting import Outcome, Spent
from engine.llm.limits.adaptive_window import START_SECONDS, Window
from engine.llm.limits.budget import Budget
from engine.llm.limits.estimates import Estimate
from engine.llm.limits.outage import Outage
from engine.llm.types.errors import BudgetError, EndpointError, ModelError
from engine.llm.types.model_spec import ModelSpec

_BURST_SECONDS = 2.0
"""Limits are per minute, but servers watch shorter spans: no more than this much of a minute goes out at once."""


class Gate(Protocol):
    """What a client waits at before each request; a Governor, or the way to one in another process."""

    async def admit(self, ask: Estimate) -> int:
        """Wait for a turn; gives a ticket.

        Raises:
            BudgetError: the request could cost more than is left.
            EndpointError: the endpoint was down for too long.
        """
        ...

    def settle(self, ticket: int, outcome: Outcome) -> None:
        """Hand a ticket back, once the answer is durable."""
        ...

    def stop(self, why: ModelError) -> None:
        """Turn away all who wait, and all who come."""
        ...

    @property
    def spent(self) -> Spent:
        """What was spent here; nothing when another process keeps the account."""
        ...


class Bucket:
    """A token bucket: fills at a steady rate, never lets more than `per_minute` out in any minute, and takes back.

    Args:
        per_minute: units a minute.
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self.capacity = max(1.0, per_minute * _BURST_SECONDS / 60)
        self._rate = max(per_minute - self.capacity, per_minute / 2) / 60
        self._level = self.capacity
        self._clock, self._at = clock, clock()

    def wait(self, amount: float) -> float:
        """Seconds until `amount` may be taken (0: now). More than the bucket holds is let out of a full one."""
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(amount, self.capacity) - self._level) / self._rate)

    def take(self, amount: float) -> None:
        """Take `amount`; the level may sink below zero and is waited for by those that follow."""
        self._level -= amount

    def give_back(self, amount: float) -> None:
        """Put back what was taken too much (or take, when it was too little)."""
        self._level = min(self.capacity, self._level + amount)


@dataclass
class _Waiting:
    ask: Estimate
    admitted: asyncio.Future[int]


@dataclass(frozen=True)
class _InFlight:
    ask: Estimate
    epoch: int
    probe: bool


class Governor:
    """The limits of one model. Use from one event loop.

    Args:
        spec: the model.
        spent_usd, calls: what this run has spent on, and asked of, the model before.
        clock: seconds, monotonic.
    """

    def __init__(
        self, spec: ModelSpec, spent_usd: float = 0.0, calls: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        limits = spec.limits
        self.spec = spec
        self.budget = Budget(spec, Spent(usd=spent_usd, calls=calls))
        self._outage = Outage(limits.patience, spec.retries, calls > 0, clock)
        self.window = Window(spec.most_in_flight, clock, gently=spec.provider == "openai" and spec.mode == "chat")
        self._requests = Bucket(limits.requests_per_minute, clock) if limits.requests_per_minute else None
        self._tokens = Bucket(limits.tokens_per_minute, clock) if limits.tokens_per_minute else None
        self._tickets = itertools.count()
        self._waiting: deque[_Waiting] = deque()
        self._out: dict[int, _InFlight] = {}
        self._same_key: dict[str, list[_Waiting]] = {}
        self._probing = False
        self._stopped: ModelError | None = None
        self._wake: asyncio.TimerHandle | None = None

    async def admit(self, ask: Estimate) -> int:
        """See Gate."""
        if self._stopped:
            raise type(self._stopped)(str(self._stopped))
        waiting = _Waiting(ask, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._pump()
        try:
            return await waiting.admitted
        except asyncio.CancelledError:
            if waiting.admitted.done() and not waiting.admitted.cancelled() and not waiting.admitted.exception():
                self.settle(waiting.admitted.result(), Outcome("unsent"))
            raise

    def stop(self, why: ModelError) -> None:
        """See Gate."""
        self._stopped = why
        for waiting in (*self._waiting, *(each for parked in self._same_key.values() for each in parked)):
            if not waiting.admitted.done():
                waiting.admitted.set_exception(type(why)(str(why)))

    def settle(self, ticket: int, outcome: Outcome) -> None:
        """See Gate."""
        sent = self._out.pop(ticket)
        ask = sent.ask
        self._probing = self._probing and not sent.probe
        self.budget.settle(ask, outcome)
        if self._tokens:
            # A request that gave nothing may still have been counted by the server: its prompt is not given back.
            back = {"answered": ask.tokens - outcome.tokens, "unsent": ask.tokens}.get(outcome.kind, 0)
            self._tokens.give_back(back)
        if outcome.kind == "unsent" and self._requests:
            self._requests.give_back(1)
        if outcome.kind == "answered":
            self.window.answered()
        elif outcome.kind == "throttled":
            self.window.throttled(sent.epoch, len(self._out), outcome.retry_after)
        self._look_after(sent, outcome)
        self._waiting.extendleft(reversed(self._same_key.pop(ask.key, [])))
        self._pump()

    @property
    def spent(self) -> Spent:
        """See Gate."""
        return self.budget.made

    @property
    def spent_usd(self) -> float:
        """What the run has spent on the model in all, without requests in flight."""
        return self.budget.spent_usd

    def _look_after(self, sent: _InFlight, outcome: Outcome) -> None:
        """Keep track of whether the endpoint is down."""
        if outcome.down or (sent.probe and outcome.kind == "failed"):
            self._outage.failed(
                sent.ask.key, outcome.why, outcome.retry_after, unreachable=outcome.unreachable, probe=sent.probe
            )
            if said := self._outage.given_up():
                self.stop(EndpointError(said))
        elif outcome.kind in ("answered", "throttled", "refused"):
            self._outage.alive(answered=outcome.kind == "answered")

    def _pump(self) -> None:
        """Let out whoever may go, in order of arrival; come back when time alone can help."""
        while self._waiting:
            first = self._waiting[0]
            if first.admitted.done():  # gave up
                self._waiting.popleft()
                continue
            if first.ask.key in self._same_key:
                self._same_key[first.ask.key].append(self._waiting.popleft())
                continue
            if self._refuse(first):
                continue
            wait = self._seconds_to_wait(first.ask)
            if wait > 0:
                self._come_back(wait)
                return
            self._waiting.popleft()
            self._let_out(first)

    def _let_out(self, waiting: _Waiting) -> None:
        ask, ticket = waiting.ask, next(self._tickets)
        if self._requests:
            self._requests.take(1)
        if self._tokens:
            self._tokens.take(ask.tokens)
        self.budget.hold(ask)
        self._probing = self._probing or self._outage.down
        self._out[ticket] = _InFlight(ask, self.window.epoch, self._outage.down)
        self._same_key[ask.key] = []
        waiting.admitted.set_result(ticket)

    def _seconds_to_wait(self, ask: Estimate) -> float:
        """0: now; infinity: until a request in flight ends."""
        if len(self._out) >= self.window.size():
            return START_SECONDS if self.window.starting else float("inf")
        if (self._outage.down and self._probing) or not self.budget.fits(ask):
            return float("inf")
        waits = [self.window.pause(), self._outage.wait()]
        waits += [bucket.wait(amount) for bucket, amount in ((self._requests, 1), (self._tokens, ask.tokens)) if bucket]
        return max(waits)

    def _refuse(self, waiting: _Waiting) -> bool:
        """Turn a request away that the budget can never pay for; what calls in flight give back is waited for first."""
        if said := self.budget.refusal(waiting.ask):
            self._waiting.popleft()
            waiting.admitted.set_exception(BudgetError(said))
        return bool(said)

    def _come_back(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if self._wake and self.window.starting and now < self._wake.when() <= now + seconds:
            return  # the next step of the beginning is not to be put off by those who arrive
        if self._wake:
            self._wake.cancel()
            self._wake = None
        if seconds != float("inf"):
            self._wake = asyncio.get_running_loop().call_later(seconds, self._awake)

    def _awake(self) -> None:
        # From a timer, not from `admit`: between two steps the answers to the first have had a chance to be heard.
        self.window.open_further()
        self._pump()
