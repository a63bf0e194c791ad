"""OpenAI's Batch API as a provider: half the price, answers within a day. Open batches survive a restart of the engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.llm.batches.open_batches import CLAIM_SECONDS, Claim, OpenBatch, OpenBatches
from engine.llm.batches.openai import BatchApi, LineResult
from engine.llm.batches.polling import Patience, pauses
from engine.llm.journal.answers import Answers
from engine.llm.providers import chat_completions
from engine.llm.providers.capabilities import KnownCapabilities, recall
from engine.llm.types.completions import Completion
from engine.llm.types.errors import BudgetError, EndpointError, ModelError, RequestError, TransientError
from engine.llm.types.model_spec import MOST_IN_BATCH, ModelSpec
from engine.llm.types.requests import Request
from engine.llm.types.row_context import refresh

LINGER_SECONDS = 1.0
"""A batch is formed when no further request has arrived for this long."""

MOST_BYTES = 200_000_000
"""The maximum size of a batch's input file."""

_DOWNLOADS = 5
_ENDED = {"completed", "failed", "expired", "cancelled"}


@dataclass
class _Pending:
    """A request that waits for a batch, or is in one (`file`: the batch's input file; `again`: replace the stored answer)."""

    request: Request
    line: bytes
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
        self._api = BatchApi(spec)
        self._capabilities: KnownCapabilities | None = None
        self._pending: dict[str, _Pending] = {}
        self._waiting: list[_Pending] = []
        self._bytes = 0
        self._linger: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: set[str] = set()
        self._adapted: dict[str, KnownCapabilities] = {}
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
        empty = [place for place, answer in enumerate(found) if not answer.text.strip()]
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
        return self._api.trouble

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
        await self._api.close()

    # -- collecting -----------------------------------------------------------------------------------------------

    def _enqueue(self, request: Request, capabilities: KnownCapabilities) -> _Pending:
        if (there := self._pending.get(request.key)) is not None:
            return there
        capabilities = self._adapted.get(request.key, capabilities)
        pending = _Pending(request, self._line(request, capabilities), refresh.get())
        self._pending[request.key] = pending
        self._add(pending)
        return pending

    def _line(self, request: Request, capabilities: KnownCapabilities) -> bytes:
        body = chat_completions.body(self._spec, [request], capabilities)
        document = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    def _adaptation(self, result: LineResult, pending: _Pending) -> KnownCapabilities | None:
        """The capabilities to assume when a refused line is sent again; None if its refusal has other reasons."""
        known = self._capabilities or KnownCapabilities()
        if not isinstance(result, RequestError) or not result.refused:
            return None
        if known.max_completion_tokens is None and "max_completion_tokens" in str(result):
            return known.model_copy(update={"max_completion_tokens": True})
        if result.parameter and getattr(known, result.parameter) is None:
            return known.model_copy(update={result.parameter: False})
        if pending.request.schema is not None and known.response_format is None and "response_format" in str(result):
            return known.model_copy(update={"response_format": False})
        return None

    def _add(self, pending: _Pending) -> None:
        """Add a request to the next batch, and form the batch if it is full."""
        pending.file = ""
        if self._waiting and self._bytes + len(pending.line) > MOST_BYTES:
            self._form()
        self._waiting.append(pending)
        self._bytes += len(pending.line)
        if self._linger:
            self._linger.cancel()
        if len(self._waiting) >= MOST_IN_BATCH:
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
            file = await self._api.upload(b"".join(pending.line for pending in fresh))
            keys = tuple(pending.request.key for pending in fresh)
            logprobs = frozenset(pending.request.key for pending in fresh if "logprobs" in pending.request.sampling)
            again = frozenset(pending.request.key for pending in fresh if pending.again)
            note = OpenBatch(file=file, since=time.time(), keys=keys, logprobs=logprobs, again=again)
            for pending in fresh:
                pending.file = file
            self._wait_for(note, fresh=True)
        except Exception as error:
            self._fail([pending for pending in group if not pending.file and not pending.answer.done()], error)

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
                self._deliver(created, results)
            else:  # another process has created and completed it: its answers are in the journal
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
        """The batch of an input file: the existing one, or a new one. None if another process has completed it."""
        claim = Claim(self._answers, note.file, CLAIM_SECONDS + self._spec.timeout)
        patience = Patience()
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
                    batch = None if fresh else await self._api.find(note.file, note.since)
                    return await self._create(note, batch, claim)
                except TransientError as error:
                    fresh = False  # it may have been created anyway: look for it before the next attempt
                    await patience.wait(error)
        finally:
            await claim.release()

    async def _create(self, note: OpenBatch, batch: str | None, claim: Claim) -> OpenBatch:
        async with self._creating:
            try:
                created = note.model_copy(update={"batch": batch or await self._api.create(note.file)})
            except EndpointError:
                await self._open.forget(note)  # it was not created
                raise
            await self._open.note(created)
            await claim.release()
            return created

    async def _final_state(self, note: OpenBatch) -> dict[str, Any]:
        """The batch's final state, once it has ended."""
        for pause in pauses():
            state = await self._api.look(note.batch or "")
            if state.get("status") in _ENDED:
                break
            await asyncio.sleep(pause)
        if state["status"] == "failed":
            await self._open.forget(note)
            raise EndpointError(self._api.why(state))
        return state

    async def _results(self, note: OpenBatch, state: dict[str, Any]) -> dict[str, LineResult]:
        """The result of each request that the batch's files contain."""
        files = [state[name] for name in ("output_file_id", "error_file_id") if state.get(name)]
        counts = state.get("request_counts") or {}
        expected = sum(counts.get(name) or 0 for name in ("completed", "failed"))
        waits = pauses()
        found: dict[str, LineResult] = {}
        for _ in range(_DOWNLOADS):
            found, whole = {}, True
            for file in files:
                whole &= await self._api.read(file, note.logprobs, found)
            if whole and len(found.keys() & set(note.keys)) >= expected:
                break
            await asyncio.sleep(next(waits))  # truncated or garbled
        return found

    async def _journalled(self, note: OpenBatch, results: dict[str, LineResult]) -> dict[str, LineResult]:
        """Put the answers into the journal. Returns the results, with the answers that the journal holds."""
        # Without empty answers: see ModelClient.
        answers = {
            key: answer for key in note.keys if isinstance(answer := results.get(key), Completion) and answer.text.strip()
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
            elif key not in self._adapted and (other := self._adaptation(result, pending)) is not None:
                self._adapted[key] = other
                self._fail([pending], TransientError(str(result), adapted=True))
            else:
                self._fail([pending], result or TransientError(f"batch {note.batch} ended without an answer", billed=False))

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
