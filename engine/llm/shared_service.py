"""One journal and one set of limits for workers in several processes, on any machine.

A `Service` runs in one process, next to the journal's file; `RemoteGate` and `RemoteAnswers` are its two clients in the
workers. Messages between them travel in bundles. A `Transport` carries them (to a Ray actor's methods, for example).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.llm.journal.answers import Journal, JournalEntry
from engine.llm.limits.accounting import CallOutcome, Spent
from engine.llm.limits.estimates import Estimate
from engine.llm.limits.governor import Governor
from engine.llm.types.errors import BudgetError, EndpointError, ModelError
from engine.llm.types.model_spec import ModelSpec

_LISTEN_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
"""A worker that is silent for longer counts as dead, and its places among the requests in flight are free again."""

_UNACCOUNTED = CallOutcome("failed", accounted=False)
"""The outcome of a request that a dead worker sent, or may have sent."""


class Transport(Protocol):
    """Carries calls to the Service, which may be in another process or on another machine."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the Service by name; returns its result, and raises its errors."""
        ...


class Admission(NamedTuple):
    """A worker's message: a request wants to be sent. `number` is the worker's own count."""

    model: str
    number: int
    estimate: Estimate


class Release(NamedTuple):
    """A worker's message: request `number` has ended, or gives up."""

    number: int
    outcome: CallOutcome


class GateDecision(NamedTuple):
    """The answer to an Admission: request `number` may be sent, or fails with an error."""

    number: int
    error: ModelError | None = None


class Service:
    """The limits and the journal that the workers of a run share. Use from one event loop."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder)
        self._governors: dict[str, Governor] = {}
        self._admitting: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._tickets: dict[tuple[str, int], tuple[Governor, int]] = {}
        self._written_off: dict[tuple[str, int], tuple[Governor, float]] = {}
        self._decisions: dict[str, list[GateDecision]] = defaultdict(list)
        self._has_decisions: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._last_heard: dict[str, float] = {}
        self._removed: set[str] = set()

    async def add_model(self, name: str, spec: ModelSpec, spent: Spent) -> None:
        """Keep the limits of a model, unless they are kept already.

        Args:
            name: the model's name in the pipeline.
            spec: the model.
            spent: the driver's own spending on the model in this run.
        """
        if name not in self._governors:
            self._governors[name] = Governor.on_this_machine(spec, spent)
        self._governors[name].budget.spent_before(spent)

    async def submit(self, worker: str, messages: Sequence[Admission | Release]) -> None:
        """Handle a worker's bundle of messages."""
        self._hear(worker)
        for message in messages:
            if isinstance(message, Admission):
                if worker in self._removed:  # it sent this before it died
                    continue
                governor = self._governors[message.model]
                task = asyncio.create_task(self._admit(worker, message.number, governor, message.estimate))
                self._admitting[worker, message.number] = task
            else:
                self._release((worker, message.number), message.outcome)

    async def listen(self, worker: str) -> list[GateDecision]:
        """The decisions for a worker since the last call; waits a while for the first."""
        self._hear(worker)
        self._write_off_silent_workers()
        try:
            await asyncio.wait_for(self._has_decisions[worker].wait(), _LISTEN_SECONDS)
        except TimeoutError:
            return []
        self._has_decisions[worker].clear()
        return self._decisions.pop(worker, [])

    async def find(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See Journal."""
        return self._journal.find(keys)

    async def write(self, entries: Sequence[JournalEntry]) -> list[str | None]:
        """See Journal. The entries are durable when it returns."""
        return list(await asyncio.gather(*[self._journal.write(entry) for entry in entries]))

    async def notes(self, prefix: str) -> dict[str, str]:
        """See Journal."""
        return await self._journal.notes(prefix)

    async def ensure_room(self) -> None:
        """See Journal."""
        await self._journal.ensure_room()

    async def remove_worker(self, worker: str) -> None:
        """Free all that a dead worker held, at once.

        Its requests in flight may be billed, so they count with their maximum cost. Requests that waited, or whose
        admission the worker had not yet heard of, were never sent.
        """
        self._removed.add(worker)
        self._last_heard.pop(worker, None)
        for place in [place for place in self._admitting if place[0] == worker]:
            self._admitting.pop(place).cancel()
        unheard = {decision.number for decision in self._decisions.pop(worker, [])}
        for place in [place for place in self._tickets if place[0] == worker]:
            governor, ticket = self._tickets.pop(place)
            governor.release(ticket, CallOutcome("unsent") if place[1] in unheard else _UNACCOUNTED)
        self._has_decisions.pop(worker, asyncio.Event()).set()

    async def spent(self) -> dict[str, Spent]:
        """What the workers have spent, by model; requests in flight count with their maximum cost."""
        return {model: governor.spent for model, governor in self._governors.items()}

    async def _admit(self, worker: str, number: int, governor: Governor, estimate: Estimate) -> None:
        error = None
        try:
            self._tickets[worker, number] = (governor, await governor.admit(estimate))
        except (BudgetError, EndpointError) as refused:
            error = refused
        finally:
            self._admitting.pop((worker, number), None)
        self._decisions[worker].append(GateDecision(number, error))
        self._has_decisions[worker].set()

    def _hear(self, worker: str) -> None:
        if worker not in self._removed:
            self._last_heard[worker] = time.monotonic()

    def _release(self, place: tuple[str, int], outcome: CallOutcome) -> None:
        if place in self._admitting:
            self._admitting.pop(place).cancel()
        elif place in self._tickets:
            governor, ticket = self._tickets.pop(place)
            governor.release(ticket, outcome)
        elif place in self._written_off:  # the worker was not dead after all
            governor, counted = self._written_off.pop(place)
            governor.budget.correct(outcome.cost - counted if outcome.accounted else 0.0)

    def _write_off_silent_workers(self) -> None:
        """Free the places of workers that are cut off. (Known deaths are reported to `remove_worker`.)"""
        now = time.monotonic()
        for worker in [worker for worker, heard in self._last_heard.items() if heard < now - _SILENCE_SECONDS]:
            # Requests that wait for admission are kept: if the worker is alive after all, they would wait forever.
            for place in [place for place in self._tickets if place[0] == worker]:
                governor, ticket = self._tickets.pop(place)
                before = governor.budget.usd
                governor.release(ticket, _UNACCOUNTED)
                self._written_off[place] = (governor, governor.budget.usd - before)
            self._last_heard[worker] = now
