"""OpenAI's Batch API: half the price, answers within a day; a batch that is out survives a restart of the engine.

What is out is noted in the journal. Before a batch is created, its intent is noted, with the uploaded input file, by which
a batch whose creation was interrupted is found again on the server. The note goes only when all answers are durable.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.llm.journal.answers import Answers
from engine.llm.providers import chat_completions
from engine.llm.providers.batch_api import BatchApi, Outcome
from engine.llm.providers.capabilities import KnownCapabilities, recall
from engine.llm.providers.outstanding_batches import CLAIM_SECONDS, Claim
from engine.llm.providers.polling import Patience, pauses
from engine.llm.types.completions import Completion
from engine.llm.types.errors import BudgetError, EndpointError, ModelError, RequestError, TransientError
from engine.llm.types.model_spec import MOST_IN_BATCH, ModelSpec
from engine.llm.types.requests import Request
from engine.llm.types.row_context import refresh

LINGER_SECONDS = 1.0
"""A batch is formed when no further request has come for so long."""

MOST_BYTES = 200_000_000
"""Of a batch's input file."""

_DOWNLOADS = 5
_ENDED = {"completed", "failed", "expired", "cancelled"}


class _Out(BaseModel):
    """A note in the journal: a batch that is out, or (without `batch`) about to be created.

    Args:
        file: the input file's id on the server.
        since: when it was uploaded, in seconds since 1970.
        keys: of its requests; `logprobs` those that want log-probabilities, `again` those whose answer in the journal is
            to be replaced.
        batch: the batch's id on the server.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    since: float
    keys: tuple[str, ...]
    logprobs: frozenset[str] = frozenset()
    again: frozenset[str] = frozenset()
    batch: str | None = None


@dataclass
class _Asked:
    """A request that waits for a batch, or is in one (`file`: the batch's input file)."""

    request: Request
    line: bytes
    again: bool
    answer: asyncio.Future[Completion] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    file: str = ""


class BatchProvider:
    """Gathers requests into batches, and waits for their answers for as long as it takes.

    Args:
        spec: the model.
        answers: the journal; every answer of a batch is put there, also when nobody here is waiting for it any more.
    """

    def __init__(self, spec: ModelSpec, answers: Answers) -> None:
        self.notes: list[str] = []
        self._cleared: set[str] = set()
        self._spec = spec
        self._answers = answers
        self._api = BatchApi(spec)
        self._abilities: KnownCapabilities | None = None
        self._asked: dict[str, _Asked] = {}
        self._waiting: list[_Asked] = []
        self._bytes = 0
        self._linger: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: set[str] = set()
        self._differently: dict[str, KnownCapabilities] = {}
        self._creating = asyncio.Lock()
        self._stopped: ModelError | None = None

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers, when their batch is done; see Provider. All samples of a prompt go out together.

        `latency_ms` is 0.0: how long the server worked on an answer is unknown. Trouble with the batch itself is waited out
        here. A request that failed in it raises a TransientError: it may be sent again, in another batch, once the limits
        allow it.
        """
        if self._abilities is None:
            self._abilities = await recall(self._answers, self._spec)
        if self._stopped:
            raise type(self._stopped)(str(self._stopped))
        asked = [self._ask(request, self._abilities) for request in requests]
        # Shielded: a row that gives up takes nothing out of a batch. All come to their end before an error is told.
        answers = await asyncio.gather(*[asyncio.shield(each.answer) for each in asked], return_exceptions=True)
        found: list[Completion] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            found.append(answer)
        empty = [place for place, answer in enumerate(found) if not answer.text.strip()]
        return found[: max(1, empty[0])] if empty else found  # an empty one is asked for again

    def stop(self, why: ModelError) -> None:
        """See Provider: nobody waits a day for a step that has failed. What is out is collected by the next run.

        When a budget is used up, what it pays for goes out, and is waited for.
        """
        if isinstance(why, BudgetError):
            return
        if self._linger:
            self._linger.cancel()
        self._waiting, self._bytes, self._stopped = [], 0, why
        self._start(self._give_up(why))

    @property
    def trouble(self) -> str:
        """What keeps the server from taking a batch or telling of it, in its words; nothing when it does."""
        return self._api.trouble

    async def _give_up(self, why: ModelError) -> None:
        async with self._creating:
            for task in self._tasks - {asyncio.current_task()}:
                task.cancel()
        self._fail(list(self._asked.values()), why)

    async def close(self) -> None:
        """Stop waiting; what is out stays out on the server and noted in the journal."""
        while self._tasks:
            async with self._creating:  # a creation is not interrupted: its id would be lost
                for task in self._tasks:
                    task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
        if self._linger:
            self._linger.cancel()
        for asked in self._asked.values():
            asked.answer.cancel()
        await self._api.close()

    # -- gathering ------------------------------------------------------------------------------------------------

    def _ask(self, request: Request, abilities: KnownCapabilities) -> _Asked:
        if (there := self._asked.get(request.key)) is not None:
            return there
        abilities = self._differently.get(request.key, abilities)
        asked = _Asked(request, self._line(request, abilities), refresh.get())
        self._asked[request.key] = asked
        self._wait(asked)
        return asked

    def _line(self, request: Request, abilities: KnownCapabilities) -> bytes:
        body = chat_completions.body(self._spec, [request], abilities)
        document = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    def _other_words(self, outcome: Outcome, asked: _Asked) -> KnownCapabilities | None:
        """What the server must know less of, when it refused a line for that."""
        known = self._abilities or KnownCapabilities()
        if not isinstance(outcome, RequestError) or not outcome.refused:
            return None
        if known.max_completion_tokens is None and "max_completion_tokens" in str(outcome):
            return known.model_copy(update={"max_completion_tokens": True})
        if asked.request.schema is not None and known.response_format is None and "response_format" in str(outcome):
            return known.model_copy(update={"response_format": False})
        return None

    def _wait(self, asked: _Asked) -> None:
        """Let a request wait for a batch, and form one when it is full."""
        asked.file = ""
        if self._waiting and self._bytes + len(asked.line) > MOST_BYTES:
            self._form()
        self._waiting.append(asked)
        self._bytes += len(asked.line)
        if self._linger:
            self._linger.cancel()
        if len(self._waiting) >= MOST_IN_BATCH:
            self._form()
        else:
            self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._form)

    def _form(self) -> None:
        group, self._waiting, self._bytes = self._waiting, [], 0
        self._start(self._send(group))

    async def _send(self, group: Sequence[_Asked]) -> None:
        try:
            fresh = await self._not_out(group)
            if not fresh:
                return
            file = await self._api.upload(b"".join(asked.line for asked in fresh))
            keys = tuple(asked.request.key for asked in fresh)
            logprobs = frozenset(asked.request.key for asked in fresh if "logprobs" in asked.request.sampling)
            again = frozenset(asked.request.key for asked in fresh if asked.again)
            out = _Out(file=file, since=time.time(), keys=keys, logprobs=logprobs, again=again)
            for asked in fresh:
                asked.file = file
            self._follow(out, fresh=True)
        except Exception as error:
            self._fail([asked for asked in group if not asked.file and not asked.answer.done()], error)

    async def _not_out(self, group: Sequence[_Asked]) -> list[_Asked]:
        """Those that are in no batch yet and have no answer; the others join their batch."""
        noted = await self._noted()
        await self._clear(noted)
        where = {key: out for out in sorted(noted, key=lambda out: out.since) for key in out.keys}
        left = []
        for asked in group:
            out = where.get(asked.request.key)
            if out is None or (asked.again and asked.request.key not in out.again):
                left.append(asked)
            else:
                asked.file = out.file
                self._follow(out)
        # After the notes: a batch that went in between has left its answers.
        known = await asyncio.gather(*[self._known(asked) for asked in left])
        for asked, answer in zip(left, known, strict=True):
            if answer is not None:
                self._tell(asked, answer)
        return [asked for asked, answer in zip(left, known, strict=True) if answer is None]

    async def _known(self, asked: _Asked) -> Completion | None:
        return None if asked.again else await self._answers.get(asked.request.key)

    # -- following ------------------------------------------------------------------------------------------------

    def _follow(self, out: _Out, *, fresh: bool = False) -> None:
        if out.file not in self._following:
            self._following.add(out.file)
            self._start(self._to_the_end(out, fresh))

    async def _to_the_end(self, out: _Out, fresh: bool) -> None:
        """Create the batch where that is left to do, wait for its end, keep its answers, tell those who wait."""
        try:
            created = out if out.batch else await self._created(out, fresh)
            if created is not None:
                state = await self._ended(created)
                outcomes = await self._kept(created, await self._outcomes(created, state))
                await self._forget(created)
                self._settle(created, outcomes)
            else:  # another process has created it and seen it through: its answers are in the journal
                for asked in self._members(out):
                    self._wait(asked)
        except EndpointError as error:
            noted = [each for each in await self._noted() if each.file == out.file]
            ways = [self._way_out(each) for each in noted]
            self._fail(self._members(out), EndpointError("; ".join([str(error), *ways])))
        except Exception as error:
            self._fail(self._members(out), error)
        finally:
            self._following.discard(out.file)

    async def _created(self, out: _Out, fresh: bool) -> _Out | None:
        """The batch of an input file: the one that is there, or a new one. None when it has come and gone."""
        claim = Claim(self._answers, out.file, CLAIM_SECONDS + self._spec.timeout)
        patience = Patience()
        try:
            if fresh:
                await claim.alone()  # before others can see that there is something to claim
                await self._note(out)
            while True:
                alone = await claim.alone()
                noted = next((each for each in await self._noted() if each.file == out.file), None)
                if noted is None or noted.batch:
                    return noted
                if not alone:
                    fresh = False
                    await claim.withdraw()
                    continue
                try:
                    batch = None if fresh else await self._api.find(out.file, out.since)
                    return await self._create(out, batch, claim)
                except TransientError as error:
                    fresh = False  # it may have been created all the same: looked for before the next try
                    await patience.wait(error)
        finally:
            await claim.release()

    async def _create(self, out: _Out, batch: str | None, claim: Claim) -> _Out:
        async with self._creating:
            try:
                created = out.model_copy(update={"batch": batch or await self._api.create(out.file)})
            except EndpointError:
                await self._forget(out)  # no batch will come of it
                raise
            await self._note(created)
            await claim.release()
            return created

    async def _ended(self, out: _Out) -> dict[str, Any]:
        """The batch's last state, once it has one."""
        for pause in pauses():
            state = await self._api.look(out.batch or "")
            if state.get("status") in _ENDED:
                break
            await asyncio.sleep(pause)
        if state["status"] == "failed":
            await self._forget(out)
            raise EndpointError(self._api.why(state))
        return state

    async def _outcomes(self, out: _Out, state: dict[str, Any]) -> dict[str, Outcome]:
        """What became of each request, as far as the batch's files tell."""
        files = [state[name] for name in ("output_file_id", "error_file_id") if state.get(name)]
        counts = state.get("request_counts") or {}
        expected = sum(counts.get(name) or 0 for name in ("completed", "failed"))
        waits = pauses()
        found: dict[str, Outcome] = {}
        for _ in range(_DOWNLOADS):
            found, whole = {}, True
            for file in files:
                whole &= await self._api.read(file, out.logprobs, found)
            if whole and len(found.keys() & set(out.keys)) >= expected:
                break
            await asyncio.sleep(next(waits))  # cut off, or garbled
        return found

    async def _kept(self, out: _Out, outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
        """Put the answers into the journal; gives what is kept there."""
        # An empty answer is not one: see ModelClient.
        answers = {
            key: answer for key in out.keys if isinstance(answer := outcomes.get(key), Completion) and answer.text.strip()
        }
        put = [self._answers.put(key, answer, replace=key in out.again) for key, answer in answers.items()]
        return outcomes | dict(zip(answers, await asyncio.gather(*put), strict=True))

    def _settle(self, out: _Out, outcomes: dict[str, Outcome]) -> None:
        """Tell those who wait."""
        for asked in self._members(out):
            key = asked.request.key
            outcome = outcomes.get(key)
            if isinstance(outcome, Completion):
                self._tell(asked, outcome)
            elif key not in self._differently and (other := self._other_words(outcome, asked)) is not None:
                self._differently[key] = other
                self._fail([asked], TransientError(str(outcome), differently=True))
            else:
                self._fail([asked], outcome or TransientError(f"batch {out.batch} ended without an answer", billed=False))

    def _members(self, out: _Out) -> list[_Asked]:
        return [asked for key in out.keys if (asked := self._asked.get(key)) is not None and asked.file == out.file]

    def _tell(self, asked: _Asked, answer: Completion) -> None:
        if self._asked.pop(asked.request.key, None) is asked and not asked.answer.done():
            asked.answer.set_result(answer)

    def _fail(self, those: Sequence[_Asked], error: Exception) -> None:
        for asked in those:
            if self._asked.pop(asked.request.key, None) is asked and not asked.answer.done():
                # One each: an exception grows with every place that it is raised at.
                copied = len(those) > 1 and isinstance(error, ModelError)
                asked.answer.set_exception(type(error)(str(error)) if copied else error)
                asked.answer.exception()  # seen: the row may have given up

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- notes ----------------------------------------------------------------------------------------------------

    def _name(self, file: str) -> str:
        return f"batch {self._spec.endpoint} {self._spec.model} {file}"

    async def _noted(self) -> list[_Out]:
        return [_Out.model_validate_json(text) for text in (await self._answers.notes(self._name(""))).values()]

    async def _note(self, out: _Out) -> None:
        await self._answers.note(self._name(out.file), out.model_dump_json())

    async def _forget(self, out: _Out) -> None:
        await self._answers.note(self._name(out.file), None)

    async def _clear(self, noted: Sequence[_Out]) -> None:
        """Forget batches whose answers are all there: a process died between keeping them and forgetting the batch."""
        for out in noted:
            if out.file in self._cleared or out.file in self._following or not out.batch or out.again:
                continue
            self._cleared.add(out.file)
            answers = [await self._answers.get(key) for key in out.keys]
            if all(answer is not None for answer in answers):
                await self._forget(out)

    def _way_out(self, out: _Out) -> str:
        since = datetime.fromtimestamp(out.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
        batch = out.batch or f"of {out.file}"
        return (
            f"batch {batch} of {since} with {len(out.keys)} requests is not lost: mend this and run again. Should it be gone "
            f"for good, delete it from the journal (answers.sqlite): delete from notes where name = '{self._name(out.file)}'"
        )
