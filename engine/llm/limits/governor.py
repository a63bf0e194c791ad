"""The limits of one model: requests in flight, requests and tokens per minute, and the budget.

One `Governor` admits the requests of everything in a run that uses the model at the same time. The limits, but not the
budget, are divided among the Governors on this machine that use the same endpoint. It knows neither HTTP nor Ray.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from engine.llm.limits.accounting import CallOutcome, Spent
from engine.llm.limits.adaptive_window import START_SECONDS, Window
from engine.llm.limits.budget import Budget
from engine.llm.limits.estimates import Estimate
from engine.llm.limits.machine_share import RECOUNT_SECONDS, MachineShare, machine_share
from engine.llm.limits.outage import Outage, Refusal
from engine.llm.types.errors import BudgetError, EndpointError, ModelError
from engine.llm.types.model_spec import ModelSpec

_BURST_SECONDS = 2.0
"""Limits are per minute, but servers check shorter intervals: at most this part of a minute's requests is sent at once."""

_IDLE_SECONDS = 1.0
"""A share of the limits is given up after it has not been used for this time, or up to twice as long."""


class Gate(Protocol):
    """Where a client waits before each request: a Governor, or a connection to one in another process."""

    async def admit(self, estimate: Estimate) -> int:
        """Wait until the request may be sent. Returns a ticket.

        Raises:
            BudgetError: the request could cost more than is left.
            EndpointError: the endpoint was down for too long.
        """
        ...

    def release(self, ticket: int, outcome: CallOutcome) -> None:
        """Return a ticket, once the answer is durable."""
        ...


class Bucket:
    """A token bucket: fills at a steady rate and never gives more than `per_minute` in any minute. Surplus can be returned.

    Args:
        per_minute: units per minute.
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock, self._at = clock, clock()
        self._fill_at(per_minute)
        self._level = self.capacity

    def divide(self, parts: int) -> None:
        """Continue with one of `parts` equal parts of the rate."""
        self.wait(0)  # what has accumulated so far did so at the earlier rate
        self._fill_at(self._per_minute / parts)
        self._level = min(self._level, self.capacity)

    def empty(self) -> None:
        """Empty the bucket: what may be sent has to accumulate first."""
        self._level = min(self._level, 0.0)

    def wait(self, amount: float) -> float:
        """Seconds until `amount` may be taken (0: now). An amount above the capacity may be taken from a full bucket."""
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(amount, self.capacity) - self._level) / self._rate)

    def take(self, amount: float) -> None:
        """Take `amount`. The level may drop below zero; later requests wait until it has recovered."""
        self._level -= amount

    def give_back(self, amount: float) -> None:
        """Return what was taken in excess (negative: take more)."""
        self._level = min(self.capacity, self._level + amount)

    def _fill_at(self, per_minute: float) -> None:
        self.capacity = max(1.0, per_minute * _BURST_SECONDS / 60)
        self._rate = max(per_minute - self.capacity, per_minute / 2) / 60


@dataclass
class _Waiting:
    estimate: Estimate
    admitted: asyncio.Future[int]


@dataclass(frozen=True)
class _InFlight:
    estimate: Estimate
    epoch: int
    probe: bool


class Governor:
    """The limits of one model. Use from one event loop.

    Args:
        spec: the model.
        spent_usd, calls: the run's earlier spending on the model, and the number of its calls.
        clock: seconds, monotonic.
        share: the share of the limits, while others use the endpoint, too. None: all of the limits.
    """

    def __init__(
        self,
        spec: ModelSpec,
        spent_usd: float = 0.0,
        calls: int = 0,
        clock: Callable[[], float] = time.monotonic,
        share: MachineShare | None = None,
    ) -> None:
        limits = spec.limits
        self.spec = spec
        self.budget = Budget(spec, Spent(usd=spent_usd, calls=calls))
        self._outage = Outage(limits.patience, spec.retries, calls > 0, clock)
        self._refusal = Refusal(limits.patience, clock)
        self.window = Window(spec.most_in_flight, clock, gently=spec.remote and spec.mode == "chat")
        self._share = share
        self._holders = 1
        self._joined = self._used = False
        self._requests = Bucket(limits.requests_per_minute, clock) if limits.requests_per_minute else None
        self._tokens = Bucket(limits.tokens_per_minute, clock) if limits.tokens_per_minute else None
        self._tickets = itertools.count()
        self._waiting: deque[_Waiting] = deque()
        self._in_flight: dict[int, _InFlight] = {}
        self._same_key: dict[str, list[_Waiting]] = {}
        self._probing = False
        self._stopped: ModelError | None = None
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def on_this_machine(cls, spec: ModelSpec, spent: Spent = Spent()) -> Governor:  # noqa: B008  (frozen)
        """The limits of a model, divided among the runs on this machine, counting what this run has spent on it before."""
        return cls(spec, spent.usd, spent.calls, share=machine_share(spec))

    async def admit(self, estimate: Estimate) -> int:
        """See Gate."""
        if self._stopped:
            raise type(self._stopped)(str(self._stopped))
        waiting = _Waiting(estimate, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._admit_waiting()
        try:
            return await waiting.admitted
        except asyncio.CancelledError:
            if waiting.admitted.done() and not waiting.admitted.cancelled() and not waiting.admitted.exception():
                self.release(waiting.admitted.result(), CallOutcome("unsent"))
            raise

    def stop(self, why: ModelError) -> None:
        """Fail all requests that wait, and all later ones, with `why`."""
        self._stopped = why
        for waiting in (*self._waiting, *(each for parked in self._same_key.values() for each in parked)):
            if not waiting.admitted.done():
                waiting.admitted.set_exception(type(why)(str(why)))

    def release(self, ticket: int, outcome: CallOutcome) -> None:
        """See Gate."""
        sent = self._in_flight.pop(ticket)
        self._used = True
        estimate = sent.estimate
        self._probing = self._probing and not sent.probe
        self.budget.charge(estimate, outcome)
        if self._tokens:
            # The server may have counted a request that returned nothing: its prompt is not given back.
            back = {"answered": estimate.tokens - outcome.tokens, "unsent": estimate.tokens}.get(outcome.kind, 0)
            self._tokens.give_back(back)
        if outcome.kind == "unsent" and self._requests:
            self._requests.give_back(1)
        if outcome.kind == "answered":
            self.window.answered()
        elif outcome.kind == "throttled":
            self.window.throttled(sent.epoch, len(self._in_flight), outcome.retry_after)
        self._watch_outage(sent, outcome)
        self._waiting.extendleft(reversed(self._same_key.pop(estimate.key, [])))
        self._admit_waiting()

    @property
    def spent(self) -> Spent:
        """What was spent through these limits; requests in flight count with their maximum cost."""
        return self.budget.made

    @property
    def spent_usd(self) -> float:
        """What the run has spent on the model in total, without requests in flight."""
        return self.budget.spent_usd

    def _watch_outage(self, sent: _InFlight, outcome: CallOutcome) -> None:
        """Track whether the endpoint is down, or accepts nothing."""
        if outcome.kind == "throttled" and not self._in_flight:
            if reason := self._refusal.throttled(sent.estimate.key, outcome.why):
                self.stop(EndpointError(reason))
        elif outcome.kind in ("answered", "refused"):
            self._refusal.end()
        if outcome.down or (sent.probe and outcome.kind == "failed"):
            self._outage.failed(
                sent.estimate.key, outcome.why, outcome.retry_after, unreachable=outcome.unreachable, probe=sent.probe
            )
            if reason := self._outage.given_up():
                self.stop(EndpointError(reason))
        elif outcome.kind in ("answered", "throttled", "refused"):
            self._outage.alive(answered=outcome.kind == "answered")

    def _admit_waiting(self) -> None:
        """Admit the requests that may be sent, in order of arrival. If only time can help, set a timer."""
        while self._waiting:
            first = self._waiting[0]
            if first.admitted.done():  # cancelled
                self._waiting.popleft()
                continue
            if first.estimate.key in self._same_key:
                self._same_key[first.estimate.key].append(self._waiting.popleft())
                continue
            if self._exceeds_budget(first):
                continue
            if self._share:
                self._take_share(self._share)
            wait = self._seconds_to_wait(first.estimate)
            if wait > 0:
                # The others may leave while this one waits.
                self._set_timer(min(wait, RECOUNT_SECONDS) if self._holders > 1 else wait)
                return
            self._waiting.popleft()
            self._admit(first)

    def _admit(self, waiting: _Waiting) -> None:
        estimate, ticket = waiting.estimate, next(self._tickets)
        if self._requests:
            self._requests.take(1)
        if self._tokens:
            self._tokens.take(estimate.tokens)
        self.budget.hold(estimate)
        self._probing = self._probing or self._outage.down
        self._in_flight[ticket] = _InFlight(estimate, self.window.epoch, self._outage.down)
        self._same_key[estimate.key] = []
        waiting.admitted.set_result(ticket)

    def _take_share(self, share: MachineShare) -> None:
        """Divide the limits by the number of those that use the endpoint now."""
        holders, joins = share.holders(), not self._joined
        self._joined = self._used = True
        if joins:
            asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._leave_if_idle, share)
        if holders == self._holders and not joins:
            return
        self._holders = holders
        self.window.divide(holders)
        for bucket in filter(None, (self._requests, self._tokens)):
            bucket.divide(holders)
            if joins and holders > 1:
                bucket.empty()  # the others may just have sent all that may be sent at once

    def _leave_if_idle(self, share: MachineShare) -> None:
        """Leave the limits to the others, if nothing was sent or awaited since the last look."""
        if self._used or self._in_flight or any(not waiting.admitted.done() for waiting in self._waiting):
            self._used = False
            asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._leave_if_idle, share)
        else:
            self._joined = False
            share.leave()

    def _seconds_to_wait(self, estimate: Estimate) -> float:
        """0: none; infinity: until a request in flight ends."""
        if len(self._in_flight) >= self.window.size():
            return START_SECONDS if self.window.starting else float("inf")
        if (self._outage.down and self._probing) or not self.budget.fits(estimate):
            return float("inf")
        waits = [self.window.pause(), self._outage.wait()]
        waits += [bucket.wait(amount) for bucket, amount in ((self._requests, 1), (self._tokens, estimate.tokens)) if bucket]
        return max(waits)

    def _exceeds_budget(self, waiting: _Waiting) -> bool:
        """Fail a request that the budget can never pay for. Requests in flight may still return some of what they hold."""
        if reason := self.budget.refusal(waiting.estimate):
            self._waiting.popleft()
            waiting.admitted.set_exception(BudgetError(reason))
        return bool(reason)

    def _set_timer(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if self._timer and self.window.starting and now < self._timer.when() <= now + seconds:
            return  # new requests must not delay the next step of the start
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if seconds != float("inf"):
            self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        # From a timer, not from `admit`: responses to the first requests can arrive between two steps.
        self.window.open_further()
        self._admit_waiting()
