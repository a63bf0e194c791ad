"""The worker's side of the shared service: limits and a journal that another process keeps."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from engine.llm.journal.answers import JournalEntry
from engine.llm.journal.serialization import decode_answer, encode_answer
from engine.llm.limits.accounting import CallOutcome
from engine.llm.limits.estimates import Estimate
from engine.llm.shared_service import Admission, Release, Transport
from engine.llm.types.completions import Completion

_BUNDLE_SECONDS = 0.002
"""Messages within this time travel together."""
_ROOM_SECONDS = 0.5
"""How long an answer of `ensure_room` is valid."""


class RemoteGate:
    """A model's limits, which a Service keeps. See Gate."""

    def __init__(self, connection: WorkerConnection, model: str) -> None:
        self._connection = connection
        self._model = model

    async def admit(self, estimate: Estimate) -> int:
        """See Gate."""
        return await self._connection.admit(self._model, estimate)

    def release(self, ticket: int, outcome: CallOutcome) -> None:
        """See Gate."""
        self._connection.send(Release(ticket, outcome))


class WorkerConnection:
    """A worker's connection to the Service: sends messages in bundles and listens for decisions. Use from one event loop.

    Args:
        transport: the transport to the Service.
        name: the name of the worker; the Service knows it by this name if it dies.
    """

    def __init__(self, transport: Transport, name: str | None = None) -> None:
        self._transport = transport
        self._name = name or uuid.uuid4().hex
        self._numbers = itertools.count()
        self._outgoing: list[Admission | Release] = []
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    async def admit(self, model: str, estimate: Estimate) -> int:
        """Wait until the Service admits a request."""
        number = next(self._numbers)
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        self.send(Admission(model, number, estimate))
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen())
        try:
            return await waiting
        except BaseException:
            self.send(Release(number, CallOutcome("unsent")))
            raise
        finally:
            self._waiting.pop(number, None)

    def send(self, message: Admission | Release) -> None:
        """Put a message into the next bundle."""
        self._outgoing.append(message)
        if len(self._outgoing) == 1:
            self._start(self._flush())

    async def delivered(self) -> None:
        """Wait until all messages have arrived."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Send the remaining messages."""
        if self._listening:
            self._listening.cancel()
        await self.delivered()

    async def _flush(self) -> None:
        await asyncio.sleep(_BUNDLE_SECONDS)
        bundle, self._outgoing = self._outgoing, []
        try:
            await self._transport.call("submit", self._name, bundle)
        except Exception as error:
            self._outgoing[:0] = [message for message in bundle if isinstance(message, Release)]
            self._fail(error)

    async def _listen(self) -> None:
        try:
            # Even while nothing waits: a silent worker counts as dead, with all its requests in flight.
            while True:
                for number, error in await self._transport.call("listen", self._name):
                    waiting = self._waiting.get(number)
                    if waiting is None or waiting.done():
                        self.send(Release(number, CallOutcome("unsent")))
                        continue
                    if error:
                        waiting.set_exception(error)
                    else:
                        waiting.set_result(number)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class RemoteAnswers:
    """A journal that a Service on another machine keeps. See Answers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._wanted: dict[str, asyncio.Future[str | None]] = {}
        self._room_until = 0.0
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
        found: dict[str, str] = await self._transport.call("notes", prefix)
        return found

    async def ensure_room(self) -> None:
        """See Answers. An answer of the Service is valid for _ROOM_SECONDS."""
        if time.monotonic() > self._room_until:
            await self._transport.call("ensure_room")
            self._room_until = time.monotonic() + _ROOM_SECONDS

    async def _write(self, entry: JournalEntry) -> str | None:
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._written.append((entry, done))
        if len(self._written) == 1:
            self._start(self._send())
        return await done

    async def _find(self) -> None:
        await asyncio.sleep(_BUNDLE_SECONDS)
        wanted, self._wanted = self._wanted, {}
        call = self._transport.call("find", list(wanted))
        await _distribute(wanted.values(), call, lambda found: [found.get(key) for key in wanted])

    async def _send(self) -> None:
        await asyncio.sleep(_BUNDLE_SECONDS)
        written, self._written = self._written, []
        entries = [entry for entry, _ in written]
        await _distribute([done for _, done in written], self._transport.call("write", entries), list)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _distribute(waiting: Any, call: Any, split: Callable[[Any], Sequence[str | None]]) -> None:
    """Give each waiting future its part of a call's result, or the call's error."""
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
