"""One journal and one set of limits for workers in several processes, on any machine.

A `Service` lives in one process, beside the journal's file; `RemoteGate` and `RemoteAnswers` are its two faces in the
workers. What goes between them is sent in bundles. How it is carried (a Ray actor's methods) is the `Link`'s business.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.llm.journal.answers import Entry, Journal, as_answer, as_kept
from engine.llm.limits.accounting import Ask, Outcome
from engine.llm.limits.governor import Governor
from engine.llm.types.requests import BudgetError, Completion, EndpointError, ModelError, Spent

_BUNDLE_SECONDS = 0.002
_LISTEN_SECONDS = 5.0
_ROOMY_SECONDS = 0.5
_SILENCE_SECONDS = 60.0
"""A worker that has not been heard of for so long counts as dead: its places among the requests in flight are free again."""

_UNACCOUNTED = Outcome("failed", accounted=False)
"""Of a request that a dead worker had sent, or may have."""


class Link(Protocol):
    """Calls a method of the Service."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """The method's result."""
        ...


class Admission(NamedTuple):
    """A message: `number` (the worker's own count) wants in."""

    model: str
    number: int
    ask: Ask


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

    async def write(self, entries: Sequence[Entry]) -> list[str | None]:
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

    async def _admit(self, worker: str, number: int, governor: Governor, ask: Ask) -> None:
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


class RemoteGate:
    """A model's limits, kept by a Service. See Gate."""

    def __init__(self, post: Post, model: str) -> None:
        self._post = post
        self._model = model

    async def admit(self, ask: Ask) -> int:
        """See Gate."""
        return await self._post.admit(self._model, ask)

    def settle(self, ticket: int, outcome: Outcome) -> None:
        """See Gate."""
        self._post.send(Settlement(ticket, outcome))

    def stop(self, why: ModelError) -> None:
        """See Gate."""
        self._post.turn_away(self._model, why)

    @property
    def spent(self) -> Spent:
        """See Gate: the Service keeps the account."""
        return Spent()


class Post:
    """A worker's side: bundles what it sends, listens for what is decided. Use from one event loop.

    Args:
        link: to the Service.
        name: of the worker, by which its death is told to the Service.
    """

    def __init__(self, link: Link, name: str | None = None) -> None:
        self._link = link
        self._name = name or uuid.uuid4().hex
        self._numbers = itertools.count()
        self._outgoing: list[Admission | Settlement] = []
        self._waiting: dict[int, tuple[str, asyncio.Future[int]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    async def admit(self, model: str, ask: Ask) -> int:
        """Wait until the Service lets a request out."""
        number = next(self._numbers)
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (model, waiting)
        self.send(Admission(model, number, ask))
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen())
        try:
            return await waiting
        except BaseException:
            self.send(Settlement(number, Outcome("unsent")))
            raise
        finally:
            self._waiting.pop(number, None)

    def turn_away(self, model: str, why: ModelError) -> None:
        """Fail all who wait to be let out to a model."""
        for name, waiting in self._waiting.values():
            if name == model and not waiting.done():
                waiting.set_exception(type(why)(str(why)))

    def send(self, message: Admission | Settlement) -> None:
        """Put a message into the next bundle."""
        self._outgoing.append(message)
        if len(self._outgoing) == 1:
            self._start(self._flush())

    async def delivered(self) -> None:
        """Wait until what was sent has arrived."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Send what is left."""
        if self._listening:
            self._listening.cancel()
        await self.delivered()

    async def _flush(self) -> None:
        await asyncio.sleep(_BUNDLE_SECONDS)
        bundle, self._outgoing = self._outgoing, []
        try:
            await self._link.call("submit", self._name, bundle)
        except Exception as error:
            self._outgoing[:0] = [message for message in bundle if isinstance(message, Settlement)]
            self._fail(error)

    async def _listen(self) -> None:
        try:
            # Also while nobody waits: a worker that is silent is taken for dead, with all it has in flight.
            while True:
                for number, error in await self._link.call("listen", self._name):
                    _, waiting = self._waiting.get(number, ("", None))
                    if waiting is None or waiting.done():
                        self.send(Settlement(number, Outcome("unsent")))
                        continue
                    if error:
                        waiting.set_exception(error)
                    else:
                        waiting.set_result(number)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        for _, waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class RemoteAnswers:
    """The journal, kept by a Service on another machine. See Answers."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._wanted: dict[str, asyncio.Future[str | None]] = {}
        self._roomy_until = 0.0
        self._written: list[tuple[Entry, asyncio.Future[str | None]]] = []
        self.unreadable: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> Completion | None:
        """See Answers."""
        if key not in self._wanted:
            self._wanted[key] = asyncio.get_running_loop().create_future()
            if len(self._wanted) == 1:
                self._start(self._find())
        found = await asyncio.shield(self._wanted[key])
        answer = as_answer(found)
        if answer is None and found is not None:
            self.unreadable.add(key)
        return answer

    async def put(self, key: str, completion: Completion, *, replace: bool = False) -> Completion:
        """See Answers."""
        kept = await self._write(Entry("answers", key, as_kept(completion), replace))
        return as_answer(kept) or completion

    async def note(self, name: str, value: str | None) -> None:
        """See Answers."""
        await self._write(Entry("notes", name, value))

    async def notes(self, prefix: str) -> dict[str, str]:
        """See Answers."""
        found: dict[str, str] = await self._link.call("notes", prefix)
        return found

    async def room(self) -> None:
        """See Answers; asked again after a moment only."""
        if time.monotonic() > self._roomy_until:
            await self._link.call("room")
            self._roomy_until = time.monotonic() + _ROOMY_SECONDS

    async def _write(self, entry: Entry) -> str | None:
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._written.append((entry, done))
        if len(self._written) == 1:
            self._start(self._send())
        return await done

    async def _find(self) -> None:
        await asyncio.sleep(_BUNDLE_SECONDS)
        wanted, self._wanted = self._wanted, {}
        await _answer(wanted.values(), self._link.call("find", list(wanted)), lambda found: [found.get(key) for key in wanted])

    async def _send(self) -> None:
        await asyncio.sleep(_BUNDLE_SECONDS)
        written, self._written = self._written, []
        entries = [entry for entry, _ in written]
        await _answer([done for _, done in written], self._link.call("write", entries), list)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _answer(waiting: Any, call: Any, split: Callable[[Any], Sequence[str | None]]) -> None:
    """Give each of those who wait its part of a call's result, or the error that it ended in."""
    try:
        results: Sequence[str | None] | Exception = split(await call)
    except Exception as error:
        results = error
    for place, done in enumerate(waiting):
        if done.done():
            continue
        if isinstance(results, Exception):
            done.set_exception(results)
        else:
            done.set_result(results[place])
