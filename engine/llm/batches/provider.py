"""A batch API as a provider: half the price, answers within a day. Open batches survive a restart of the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.llm.batches.anthropic import AnthropicBatches
from engine.llm.batches.open_batches import CLAIM_SECONDS, Claim, OpenBatch, OpenBatches
from engine.llm.batches.openai import OpenAIBatches
from engine.llm.batches.polling import Patience, pauses
from engine.llm.batches.service import BatchService, BatchState, LineResult, UndecidedError
from engine.llm.journal.answers import Answers
from engine.llm.providers.capabilities import KnownCapabilities, lacks, recall, remember
from engine.llm.types.completions import Completion
from engine.llm.types.errors import BudgetError, EndpointError, ModelError, RequestError, TransientError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from engine.llm.types.row_context import refresh

LINGER_SECONDS = 1.0
"""A batch is formed when no further request has arrived for this long."""

_DOWNLOADS = 5


@dataclass
class _Pending:
    """A request that waits for a batch, or is in one.

    Attributes:
        known: the capabilities of the server that the line assumes.
        again: replace the stored answer.
        file: the batch's input file.
    """

    request: Request
    line: bytes
    known: KnownCapabilities
    again: bool
    answer: asyncio.Future[Completion] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    file: str = ""


class BatchProvider:
    """Collects requests into batches and waits for their answers.

    Args:
        spec: the model.
        answers: the journal. Every answer of a batch goes there, even if no row waits for it any longer.
    """

    def __init__(self, spec: ModelSpec, answers: Answers) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._answers = answers
        self._open = OpenBatches(spec, answers)
        self._service: BatchService = AnthropicBatches(spec) if spec.provider == "anthropic" else OpenAIBatches(spec)
        self._capabilities: KnownCapabilities | None = None
        self._pending: dict[str, _Pending] = {}
        self._waiting: list[_Pending] = []
        self._bytes = 0
        self._linger: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: set[str] = set()
        self._adapted: dict[str, dict[str, bool]] = {}
        self._undecided = ""
        self._creating = asyncio.Lock()
        self._stopped: ModelError | None = None

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers, once their batch is done; see Provider. All samples of a prompt are sent together.

        `latency_ms` is 0.0, because it is unknown how long the server worked on an answer. Trouble with the batch
        itself is waited out. A request that failed in it raises a TransientError: it may be sent again in another batch, once
        the limits allow it.
        """
        if self._capabilities is None:
            self._capabilities = await recall(self._answers, self._spec)
        if self._stopped:
            raise type(self._stopped)(str(self._stopped))
        pending = [self._enqueue(request, self._capabilities) for request in requests]
        # Shielded: a cancelled row removes nothing from a batch. All requests finish before an error is raised.
        answers = await asyncio.gather(*[asyncio.shield(each.answer) for each in pending], return_exceptions=True)
        found: list[Completion] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            found.append(answer)
        empty = [place for place, answer in enumerate(found) if answer.is_empty]
        return found[: max(1, empty[0])] if empty else found  # an empty one is requested again

    def stop(self, why: ModelError, keys: Collection[str]) -> None:
        """See Provider. A failed step does not wait for its batches; the next run collects them.

        If a budget is used up, the requests within it are still sent and waited for.
        """
        if isinstance(why, BudgetError):
            return
        if self._linger:
            self._linger.cancel()
        self._waiting, self._bytes, self._stopped = [], 0, why
        self._start(self._give_up(why))

    @property
    def trouble(self) -> str:
        """What keeps the server from accepting a batch or reporting its state, in its words; empty if nothing does."""
        return self._service.http.trouble or self._undecided

    async def _give_up(self, why: ModelError) -> None:
        async with self._creating:
            for task in self._tasks - {asyncio.current_task()}:
                task.cancel()
        self._fail(list(self._pending.values()), why)

    async def close(self) -> None:
        """Stop waiting. Open batches stay on the server and in the journal's notes."""
        while self._tasks:
            async with self._creating:  # do not interrupt a creation: the batch's id would be lost
                for task in self._tasks:
                    task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
        if self._linger:
            self._linger.cancel()
        for pending in self._pending.values():
            pending.answer.cancel()
        await self._service.http.close()

    # -- collecting -----------------------------------------------------------------------------------------------

    def _enqueue(self, request: Request, capabilities: KnownCapabilities) -> _Pending:
        if (there := self._pending.get(request.key)) is not None:
            return there
        known = capabilities.model_copy(update=self._adapted.get(request.key, {}))
        pending = _Pending(request, self._service.line(request, known), known, refresh.get())
        self._pending[request.key] = pending
        self._add(pending)
        return pending

    def _add(self, pending: _Pending) -> None:
        """Add a request to the next batch, and form the batch if it is full."""
        pending.file = ""
        if self._waiting and self._bytes + len(pending.line) > self._service.most_bytes:
            self._form()
        self._waiting.append(pending)
        self._bytes += len(pending.line)
        if self._linger:
            self._linger.cancel()
        if len(self._waiting) >= self._spec.most_in_batch:
            self._form()
        else:
            self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._form)

    def _form(self) -> None:
        group, self._waiting, self._bytes = self._waiting, [], 0
        self._start(self._send(group))

    async def _send(self, group: Sequence[_Pending]) -> None:
        try:
            fresh = await self._not_in_a_batch(group)
            if not fresh:
                return
            file, newest = await self._service.upload([pending.line for pending in fresh])
            for pending in fresh:
                pending.file = file
            self._wait_for(self._note(fresh, file, newest), fresh=True)
        except Exception as error:
            self._fail([pending for pending in group if not pending.file and not pending.answer.done()], error)

    def _note(self, group: Sequence[_Pending], file: str, newest: str) -> OpenBatch:
        left_out = {each.request.key: self._service.left_out(each.request, each.known) for each in group}
        return OpenBatch(
            file=file,
            since=time.time(),
            keys=tuple(each.request.key for each in group),
            tools=frozenset(each.request.key for each in group if each.request.tools),
            logprobs=frozenset(each.request.key for each in group if "logprobs" in each.request.sampling),
            again=frozenset(each.request.key for each in group if each.again),
            left_out={key: names for key, names in left_out.items() if names},
            newest=newest,
        )

    async def _not_in_a_batch(self, group: Sequence[_Pending]) -> list[_Pending]:
        """The requests that are in no batch yet and have no answer. The others join their batch."""
        noted = await self._open.all()
        await self._open.forget_answered(noted, self._following)
        where = {key: note for note in sorted(noted, key=lambda note: note.since) for key in note.keys}
        left = []
        for pending in group:
            note = where.get(pending.request.key)
            if note is None or (pending.again and pending.request.key not in note.again):
                left.append(pending)
            else:
                pending.file = note.file
                self._wait_for(note)
        # Read after the notes: a batch that was forgotten in between has left its answers here.
        known = await asyncio.gather(*[self._known(pending) for pending in left])
        for pending, answer in zip(left, known, strict=True):
            if answer is not None:
                self._resolve(pending, answer)
        return [pending for pending, answer in zip(left, known, strict=True) if answer is None]

    async def _known(self, pending: _Pending) -> Completion | None:
        return None if pending.again else await self._answers.get(pending.request.key)

    # -- waiting for batches --------------------------------------------------------------------------------------

    def _wait_for(self, note: OpenBatch, *, fresh: bool = False) -> None:
        if note.file not in self._following:
            self._following.add(note.file)
            self._start(self._complete_batch(note, fresh))

    async def _complete_batch(self, note: OpenBatch, fresh: bool) -> None:
        """Create the batch if necessary, wait until it ends, store its answers, and deliver them."""
        try:
            created = note if note.batch else await self._created(note, fresh)
            if created is not None:
                state = await self._final_state(created)
                results = await self._journalled(created, await self._results(created, state))
                await self._open.forget(created)
                await self._learn_from(created, results)
                self._deliver(created, results)
            else:  # another process has completed it, so its answers are in the journal; or it was not created
                for pending in self._members(note):
                    self._add(pending)
        except EndpointError as error:
            noted = await self._open.find(note.file)
            advice = [self._open.advice(noted)] if noted else []
            self._fail(self._members(note), EndpointError("; ".join([str(error), *advice])))
        except Exception as error:
            self._fail(self._members(note), error)
        finally:
            self._following.discard(note.file)

    async def _created(self, note: OpenBatch, fresh: bool) -> OpenBatch | None:
        """The batch of a note: the existing one, or a new one. None if another process has completed it, or if it was not
        created and cannot be, because requests of it are not here.
        """
        claim = Claim(self._answers, note.file, CLAIM_SECONDS + self._spec.timeout)
        patience, waits = Patience(), pauses()
        try:
            if fresh:
                await claim.renew()  # before other processes can see that there is something to claim
                await self._open.note(note)
            while True:
                only_one = await claim.renew()
                noted = await self._open.find(note.file)
                if noted is None or noted.batch:
                    return noted
                if not only_one:
                    fresh = False
                    await claim.withdraw()
                    continue
                try:
                    batch = None if fresh else await self._service.find(note, await self._open.taken(note.file))
                    return await self._create(note, batch, claim)
                except UndecidedError as error:
                    self._undecided = str(error)
                    await asyncio.sleep(next(waits))
                except TransientError as error:
                    fresh = False  # it may have been created anyway: look for it before the next attempt
                    await patience.wait(error)
        finally:
            self._undecided = ""
            await claim.release()

    async def _create(self, note: OpenBatch, batch: str | None, claim: Claim) -> OpenBatch | None:
        async with self._creating:
            try:
                batch = batch or await self._service.create(note, [pending.line for pending in self._members(note)])
            except EndpointError:
                await self._open.forget(note)  # it was not created
                raise
            if batch is None:
                await self._open.forget(note)
                return None
            created = note.model_copy(update={"batch": batch})
            await self._open.note(created)
            await claim.release()
            return created

    async def _final_state(self, note: OpenBatch) -> BatchState:
        """The batch's final state, once it has ended."""
        for pause in pauses():
            state = await self._service.look(note.batch or "")
            if state.ended:
                break
            await asyncio.sleep(pause)
        if state.failed:
            await self._open.forget(note)
            raise EndpointError(state.failed)
        return state

    async def _results(self, note: OpenBatch, state: BatchState) -> dict[str, LineResult]:
        """The result of each request that the batch's files contain."""
        if state.gone:
            return dict.fromkeys(note.keys)
        waits = pauses()
        found: dict[str, LineResult] = {}
        for _ in range(_DOWNLOADS):
            found, whole = {}, True
            for path in state.paths:
                whole &= await self._service.read(path, note, found)
            if whole and len(found) >= min(state.expected, len(note.keys)):
                break
            await asyncio.sleep(next(waits))  # truncated or garbled
        return found

    async def _journalled(self, note: OpenBatch, results: dict[str, LineResult]) -> dict[str, LineResult]:
        """Put the answers into the journal. Returns the results, with the answers that the journal holds."""
        # Without those that the client may ask for again, which journals the others itself: empty ones, and reasoning that the
        # default length has cut off.
        answers = {
            key: answer.model_copy(update={"left_out": note.left_out[key]}) if key in note.left_out else answer
            for key in note.keys
            if isinstance(answer := results.get(key), Completion)
            and not answer.is_empty
            and not (self._spec.leaves_length_open and answer.reasons and answer.truncated)
        }
        put = [self._answers.put(key, answer, replace=key in note.again) for key, answer in answers.items()]
        return results | dict(zip(answers, await asyncio.gather(*put), strict=True))

    def _deliver(self, note: OpenBatch, results: dict[str, LineResult]) -> None:
        """Resolve the requests that wait for the batch."""
        for pending in self._members(note):
            key = pending.request.key
            result = results.get(key)
            if isinstance(result, Completion):
                self._resolve(pending, result)
            elif more := self._adaptation(result, pending):
                self._adapted[key] = {**self._adapted.get(key, {}), **more}
                self._fail([pending], TransientError(str(result), adapted=True))
            elif result is None:
                # Requests that the server reports as not processed are not billed; for missing ones, this is unknown.
                words = f"batch {note.batch} ended without an answer"
                self._fail([pending], TransientError(words, billed=key not in results))
            else:
                self._fail([pending], result)

    def _adaptation(self, result: LineResult, pending: _Pending) -> dict[str, bool]:
        """What to assume about the server when a refused request is sent again."""
        if not isinstance(result, RequestError) or not result.refused:
            return {}
        return self._service.adaptation(result, pending.request, pending.known)

    async def _learn_from(self, note: OpenBatch, results: dict[str, LineResult]) -> None:
        """Record what successful adaptations show, so that the next requests are adapted at once."""
        before = self._capabilities or KnownCapabilities()
        found: dict[str, bool] = {}
        for key in note.keys:
            if isinstance(results.get(key), Completion):
                found |= self._adapted.get(key, {})
        news = {name: able for name, able in found.items() if getattr(before, name) is None}
        if news:
            self._capabilities = before.model_copy(update=news)
            self.notes += [lacks(self._spec, name) for name, able in news.items() if not able]
            await remember(self._answers, self._spec, self._capabilities)

    def _members(self, note: OpenBatch) -> list[_Pending]:
        return [pending for key in note.keys if (pending := self._pending.get(key)) is not None and pending.file == note.file]

    def _resolve(self, pending: _Pending, answer: Completion) -> None:
        if self._pending.pop(pending.request.key, None) is pending and not pending.answer.done():
            pending.answer.set_result(answer)

    def _fail(self, those: Sequence[_Pending], error: Exception) -> None:
        for pending in those:
            if self._pending.pop(pending.request.key, None) is pending and not pending.answer.done():
                # A copy for each, because a traceback grows wherever its exception is raised.
                copied = len(those) > 1 and isinstance(error, ModelError)
                pending.answer.set_exception(type(error)(str(error)) if copied else error)
                pending.answer.exception()  # retrieved: no warning if the row was cancelled

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
