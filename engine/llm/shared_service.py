"""One journal and one set of limits for workers in several processes, on any machine.

A `Service` lives in one process, beside the journal's file; `RemoteGate` and `RemoteAnswers` are its two faces in the
workers. What goes between them is sent in bundles. How it is carried (a Ray actor's methods) is the `Transport`'s business.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.llm.journal.answers import Journal, JournalEntry
from engine.llm.limits.accounting import Outcome, Spent
from engine.llm.limits.estimates import Estimate
from engine.llm.limits.governor import Governor
from engine.llm.types.errors import BudgetError, EndpointError, ModelError

_LISTEN_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
"""A worker that has not been heard of for so long counts as dead: its places among the requests in flight are free again."""

_UNACCOUNTED = Outcome("failed", accounted=False)
"""Of a request that a dead worker had sent, or may have."""


class Transport(Protocol):
    """Calls a method of the Service."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """The method's result."""
        ...


class Admission(NamedTuple):
    """A message: `number` (the worker's own count) wants in."""

    model: str
    number: int
    ask: Estimate


class Settlement(NamedTuple):
    """A message: `number` is through, or gives up."""

    number: int
    outcome: Outcome


class Decision(NamedTuple):
    """A message: `number` is let out, or turned away with an error."""

    number: int
    error: ModelError | None = None


class Service:
    """What the workers of a step share. Use from one event loop."""

    def __init__(self, folder: Path, governors: Mapping[str, Callable[[], Governor]]) -> None:
        self._journal = Journal(folder)
        self._make = governors
        self._governors: dict[str, Governor] = {}
        self._admitting: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._tickets: dict[tuple[str, int], tuple[Governor, int]] = {}
        self._buried: dict[tuple[str, int], tuple[Governor, float]] = {}
        self._decided: dict[str, list[Decision]] = defaultdict(list)
        self._news: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._heard: dict[str, float] = {}
        self._dead: set[str] = set()

    async def submit(self, worker: str, messages: Sequence[Admission | Settlement]) -> None:
        """Take a worker's bundle."""
        self._hear(worker)
        for message in messages:
            if isinstance(message, Admission):
                if worker in self._dead:  # its last words
                    continue
                if message.model not in self._governors:
                    self._governors[message.model] = self._make[message.model]()
                governor = self._governors[message.model]
                task = asyncio.create_task(self._admit(worker, message.number, governor, message.ask))
                self._admitting[worker, message.number] = task
            else:
                self._settle((worker, message.number), message.outcome)

    async def listen(self, worker: str) -> list[Decision]:
        """What was decided for a worker since the last time; waits a while for the first."""
        self._hear(worker)
        self._bury_the_dead()
        try:
            await asyncio.wait_for(self._news[worker].wait(), _LISTEN_SECONDS)
        except TimeoutError:
            return []
        self._news[worker].clear()
        return self._decided.pop(worker, [])

    async def find(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See Journal."""
        return self._journal.find(keys)

    async def write(self, entries: Sequence[JournalEntry]) -> list[str | None]:
        """See Journal; durable when it returns."""
        return list(await asyncio.gather(*[self._journal.write(entry) for entry in entries]))

    async def notes(self, prefix: str) -> dict[str, str]:
        """See Journal."""
        return await self._journal.notes(prefix)

    async def room(self) -> None:
        """See Journal."""
        await self._journal.room()

    async def bury(self, worker: str) -> None:
        """A worker is dead: what it had goes to the others, at once.

        Its requests in flight may be billed and count with the most that they can cost. What it waited for, and what it
        was granted and had not heard of, was never sent.
        """
        self._dead.add(worker)
        self._heard.pop(worker, None)
        for place in [place for place in self._admitting if place[0] == worker]:
            self._admitting.pop(place).cancel()
        unheard = {decision.number for decision in self._decided.pop(worker, [])}
        for place in [place for place in self._tickets if place[0] == worker]:
            governor, ticket = self._tickets.pop(place)
            governor.settle(ticket, Outcome("unsent") if place[1] in unheard else _UNACCOUNTED)
        self._news.pop(worker, asyncio.Event()).set()

    async def spent(self) -> dict[str, Spent]:
        """What the workers have spent, by model; requests in flight count with the most that they can cost."""
        return {model: governor.spent for model, governor in self._governors.items()}

    async def _admit(self, worker: str, number: int, governor: Governor, ask: Estimate) -> None:
        error = None
        try:
            self._tickets[worker, number] = (governor, await governor.admit(ask))
        except (BudgetError, EndpointError) as refused:
            error = refused
        finally:
            self._admitting.pop((worker, number), None)
        self._decided[worker].append(Decision(number, error))
        self._news[worker].set()

    def _hear(self, worker: str) -> None:
        if worker not in self._dead:
            self._heard[worker] = time.monotonic()

    def _settle(self, place: tuple[str, int], outcome: Outcome) -> None:
        if place in self._admitting:
            self._admitting.pop(place).cancel()
        elif place in self._tickets:
            governor, ticket = self._tickets.pop(place)
            governor.settle(ticket, outcome)
        elif place in self._buried:  # it was not dead after all
            governor, counted = self._buried.pop(place)
            governor.budget.correct(outcome.cost - counted if outcome.accounted else 0.0)

    def _bury_the_dead(self) -> None:
        """Free the places of workers that are cut off; the death of others is told to `bury`."""
        now = time.monotonic()
        for worker in [worker for worker, heard in self._heard.items() if heard < now - _SILENCE_SECONDS]:
            # Who still waits to be admitted is left alone: should the worker be alive, it would wait for ever.
            for place in [place for place in self._tickets if place[0] == worker]:
                governor, ticket = self._tickets.pop(place)
                before = governor.budget.usd
                governor.settle(ticket, _UNACCOUNTED)
                self._buried[place] = (governor, governor.budget.usd - before)
            self._heard[worker] = now
