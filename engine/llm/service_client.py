"""A worker's side of the shared service."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from engine.llm.journal.answers import JournalEntry
from engine.llm.journal.serialization import decode_answer, encode_answer
from engine.llm.limits.accounting import Outcome, Spent
from engine.llm.limits.estimates import Estimate
from engine.llm.shared_service import Admission, Settlement, Transport
from engine.llm.types.completions import Completion
from engine.llm.types.errors import ModelError

_BUNDLE_SECONDS = 0.002
_ROOMY_SECONDS = 0.5


class RemoteGate:
    """A model's limits, kept by a Service. See Gate."""

    def __init__(self, post: WorkerConnection, model: str) -> None:
        self._post = post
        self._model = model

    async def admit(self, ask: Estimate) -> int:
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


class WorkerConnection:
    """A worker's side: bundles what it sends, listens for what is decided. Use from one event loop.

    Args:
        link: to the Service.
        name: of the worker, by which its death is told to the Service.
    """

    def __init__(self, link: Transport, name: str | None = None) -> None:
        self._link = link
        self._name = name or uuid.uuid4().hex
        self._numbers = itertools.count()
        self._outgoing: list[Admission | Settlement] = []
        self._waiting: dict[int, tuple[str, asyncio.Future[int]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    async def admit(self, model: str, ask: Estimate) -> int:
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

    def __init__(self, link: Transport) -> None:
        self._link = link
        self._wanted: dict[str, asyncio.Future[str | None]] = {}
        self._roomy_until = 0.0
        self._written: list[tuple[JournalEntry, asyncio.Future[str | None]]] = []
        self.unreadable: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> Completion | None:
        """See Answers."""
        if key not in self._wanted:
            self._wanted[key] = asyncio.get_running_loop().create_future()
            if len(self._wanted) == 1:
                self._start(self._find())
        found = await asyncio.shield(self._wanted[key])
        answer = decode_answer(found)
        if answer is None and found is not None:
            self.unreadable.add(key)
        return answer

    async def put(self, key: str, completion: Completion, *, replace: bool = False) -> Completion:
        """See Answers."""
        kept = await self._write(JournalEntry("answers", key, encode_answer(completion), replace))
        return decode_answer(kept) or completion

    async def note(self, name: str, value: str | None) -> None:
        """See Answers."""
        await self._write(JournalEntry("notes", name, value))

    async def notes(self, prefix: str) -> dict[str, str]:
        """See Answers."""
        found: dict[str, str] = await self._link.call("notes", prefix)
        return found

    async def room(self) -> None:
        """See Answers; asked again after a moment only."""
        if time.monotonic() > self._roomy_until:
            await self._link.call("room")
            self._roomy_until = time.monotonic() + _ROOMY_SECONDS

    async def _write(self, entry: JournalEntry) -> str | None:
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
