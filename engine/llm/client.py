"""A model of a pipeline in one worker: the journal, the limits and the retries between an operator and a provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.llm.answer_length import AnswerLength
from engine.llm.journal.answers import Answers
from engine.llm.limits.accounting import CallOutcome
from engine.llm.limits.circuit_breaker import MOST_REFUSALS, CircuitBreaker
from engine.llm.limits.estimates import Estimate, estimate
from engine.llm.limits.governor import Gate
from engine.llm.limits.machine_share import is_shared, why_not_shared
from engine.llm.limits.outage import SUSPECTS
from engine.llm.retries import RetryPolicy, seconds_to_wait
from engine.llm.sample_watch import SampleWatch
from engine.llm.types.completions import Completion
from engine.llm.types.errors import BudgetError, EndpointError, ModelError, RequestError, TransientError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.provider import Provider
from engine.llm.types.requests import Request
from engine.llm.types.row_context import discarded, refresh
from registry.counted import counted

T = TypeVar("T")

_WORDS = 160


@dataclass(frozen=True)
class JournalledCompletion:
    """An answer that is in the journal, and whether it was there before the call."""

    completion: Completion
    reused: bool


class _EmptyAnswerError(RequestError):
    """The server returned an empty answer."""


class _AskAgainError(TransientError):
    """The request has to be sent in another form. It is not an attempt, and what it used is accounted for."""

    def __init__(self, message: str) -> None:
        super().__init__(message, adapted=True)


class ModelClient:
    """One model of a pipeline in one worker, for all roles that it fills: one provider, one set of limits, one journal.

    Args:
        spec: the model as the pipeline defines it.
        identity: the values that determine the model's answers besides the prompt and the sampling parameters.
        answers: the journal.
        gate: the model's limits.
        provider: creates the provider on first use, inside the event loop.
    """

    def __init__(self, spec: ModelSpec, identity: str, answers: Answers, gate: Gate, provider: Callable[[], Provider]) -> None:
        self.spec = spec
        self.identity = identity
        self._answers = answers
        self._gate = gate
        self._make_provider = provider
        self._batch = spec.mode == "batch"
        self._provider: Provider | None = None
        self._asking: dict[str, asyncio.Future[Completion]] = {}
        self._refreshed: set[str] = set()
        self._sleeping: set[asyncio.Future[None]] = set()
        self._admissions: set[asyncio.Task[Any]] = set()
        self._trouble = ""
        self._counts_tokens = True
        self._failing: set[str] = set()
        self._sample_watch = SampleWatch(spec, answers)
        self._length = AnswerLength(spec, identity, answers)
        self._breaker = CircuitBreaker()
        self._answered = 0
        self._stopped: ModelError | None = None

    @property
    def asking(self) -> int:
        """The number of requests that are waiting for their answers."""
        return len(self._asking)

    @property
    def trouble(self) -> str:
        """What keeps the server from answering now, in its words; empty if it answers."""
        return self._trouble or str(getattr(self._provider, "trouble", ""))

    @property
    def notes(self) -> list[str]:
        """What users should know about the server."""
        notes = []
        if not self._counts_tokens:
            notes.append(f"{self.spec.endpoint} does not report token counts; budgets assume the maximum")
        if unreadable := len(self._answers.unreadable):
            which = "is not a complete answer" if unreadable == 1 else "are not complete answers"
            entries = counted(unreadable, "entry", "entries")
            notes.append(f"{entries} of the journal {which}; the model was asked again")
        if self._answered and is_shared(self.spec) and (why := why_not_shared()):
            notes.append(f"limits are not divided among the runs on this machine: {why}")
        return [*notes, *self._length.notes, *self._sample_watch.notes, *(self._provider.notes if self._provider else [])]

    def stop(self, why: ModelError) -> None:
        """Send no further request: every new call fails with `why`. Requests in flight finish.

        Other steps that use the same limits and the same provider continue.
        """
        if self._stopped:
            return
        self._stopped = why
        for waiting in self._admissions:
            waiting.cancel()
        for sleeping in self._sleeping:
            _wake(sleeping)
        if self._provider:
            self._provider.stop(why, self._asking.keys())

    async def answer(self, requests: Sequence[Request]) -> list[JournalledCompletion]:
        """Answers to requests that differ only in `sample`, from the journal where it has them.

        Rows that make the same request at the same time share one call.
        """
        found: dict[str, JournalledCompletion] = {}
        for request, answer in zip(requests, await _together([self._existing(each.key) for each in requests]), strict=True):
            if answer is not None:
                self._breaker.answered()
                found[request.key] = answer
        missing = {request.key: request for request in requests if request.key not in found}
        if missing:
            try:
                found |= await self._fetch(list(missing.values()))
            except RequestError as error:
                known = found | {request.key: answer for request, answer in error.found}
                error.found = [(request, known[request.key]) for request in requests if request.key in known]
                raise
        return [found[request.key] for request in requests]

    async def close(self) -> None:
        """Close the provider."""
        if self._provider:
            await self._provider.close()

    async def _existing(self, key: str) -> JournalledCompletion | None:
        """An answer that is in the journal, or on its way for another row."""
        while (waiting := self._asking.get(key)) is not None:
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                return JournalledCompletion(waiting.result(), reused=True)
        completion = None if self._must_refresh(key) else await self._answers.get(key)
        if key in self._asking:  # another row began to ask during the look-up in the journal
            return await self._existing(key)
        return None if completion is None else JournalledCompletion(completion, reused=True)

    def _must_refresh(self, key: str) -> bool:
        """Whether to ask again although there is an answer. Once is enough for all rows that make the same request."""
        return refresh.get() and key not in self._refreshed

    async def _fetch(self, requests: Sequence[Request]) -> dict[str, JournalledCompletion]:
        loop = asyncio.get_running_loop()
        asking = {request.key: loop.create_future() for request in requests if request.key not in self._asking}
        self._asking |= asking
        found: dict[str, JournalledCompletion] = {}
        try:
            while left := [request for request in requests if request.key in asking and request.key not in found]:
                groups = [[request] for request in left] if self._batch else [left]  # each line of a batch is billed
                results = await _together([self._tried(group) for group in groups])
                for group, result in zip(groups, results, strict=True):
                    for request, answer in zip(group, [] if isinstance(result, Exception) else result, strict=False):
                        found[request.key] = answer
                        asking[request.key].set_result(answer.completion)
                errors = [result for result in results if isinstance(result, Exception)]
                # Empty samples are requested again as long as other samples arrive.
                hard = [error for error in errors if not isinstance(error, _EmptyAnswerError)] or errors[len(groups) - 1 :]
                _discard(error.completion for error in errors if isinstance(error, RequestError) and error not in hard[:1])
                if hard:
                    raise hard[0]
        except asyncio.CancelledError:
            for future in asking.values():
                future.cancel()
            raise
        except Exception as error:
            for future in asking.values():
                if not future.done():
                    # A copy for each, because a traceback grows wherever its exception is raised; and without the
                    # completion, which counts once.
                    future.set_exception(type(error)(str(error)) if isinstance(error, ModelError) else error)
                    future.exception()  # retrieved: no warning if nothing else waits
            if isinstance(error, RequestError):
                error.found = [(request, found[request.key]) for request in requests if request.key in found]
            raise
        finally:
            for key in asking:
                del self._asking[key]
        for request in requests:
            if request.key not in found:  # another row had already begun to ask for this one
                try:
                    [found[request.key]] = await self.answer([request])
                except RequestError as error:
                    error.found = [(each, found[each.key]) for each in requests if each.key in found]
                    raise
        return found

    async def _tried(self, requests: Sequence[Request]) -> list[JournalledCompletion] | Exception:
        """What `_ask` returns or raises."""
        try:
            return await self._ask(requests)
        except Exception as error:
            return error

    async def _ask(self, requests: Sequence[Request]) -> list[JournalledCompletion]:
        """Answers to the first of some requests (at least one), with as many attempts as the failures allow."""
        if self._provider is None:
            self._provider = self._make_provider()
        policy, attempts = RetryPolicy(self.spec, lambda: self._answered), 0
        while True:
            attempts += 1
            try:
                return await self._send(self._provider, requests)
            except TransientError as error:
                if policy.is_exhausted(error):
                    tried = counted(policy.counted, "attempt")
                    raise RequestError(f"no answer after {tried}; last error: {error}") from error
                pause = 0.0 if self._batch else seconds_to_wait(error, attempts)
            except (EndpointError, BudgetError) as error:
                self.stop(error)
                raise
            await self._sleep(pause)

    async def _sleep(self, seconds: float) -> None:
        """Wait before the next attempt, or until `stop`."""
        if self._stopped:
            return
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _wake, over)
        self._sleeping.add(over)
        try:
            await over
        finally:
            timer.cancel()
            self._sleeping.discard(over)

    async def _send(self, provider: Provider, requests: Sequence[Request]) -> list[JournalledCompletion]:
        # Before admission: the limits and the budget reserve what is sent.
        requests = [await self._length.fitted(request) for request in requests]
        most = estimate(self.spec, requests)
        ticket = await self._admitted(most)
        outcome = CallOutcome("unsent")
        try:
            # Another worker or run may have received the answer while this one waited for admission.
            known = None if self._must_refresh(requests[0].key) else await self._answers.get(requests[0].key)
            if known is not None:
                return [JournalledCompletion(known, reused=True)]
            # A request that was admitted before the budget was used up is within it.
            if self._stopped and not isinstance(self._stopped, BudgetError):
                raise type(self._stopped)(str(self._stopped))
            await self._answers.ensure_room()
            # However it ends (a time-out, a reset, a cancelled row), the server may bill it.
            outcome = CallOutcome("failed", accounted=False)
            completions = await provider.complete(requests)
            outcome = self._usage(completions, most)
            self._answered += 1
            self._breaker.answered()
            self._failing.clear()
            self._trouble = ""
            cut = [done for done in completions if await self._length.cuts_reasoning(requests[0], done)]
            good = [done for done in completions if not done.is_empty and done not in cut]
            if cut and not good:
                _discard(completions)
                raise _AskAgainError("its reasoning took all of the default max_tokens")
            if not good:
                # Not journalled: asking again may return an answer.
                empty = completions[0]
                _discard(completions[1:])
                raise _EmptyAnswerError(_why_empty(empty, requests[0]), empty)
            _discard(done for done in completions if done.is_empty or done in cut)
            return await self._kept(requests, good)
        except _AskAgainError:
            raise
        except TransientError as error:
            # A partial answer may have been paid for.
            broken = error.completion
            _discard([broken])
            outcome = self._failure(error, requests[0].key) if broken is None else self._usage([broken], most)
            self._trouble = str(error)[:_WORDS]
            raise
        except RequestError as error:
            if outcome.kind == "failed" and error.completion is not None:
                outcome = self._usage([error.completion], most)
            elif outcome.kind == "failed" and error.refused:
                outcome = CallOutcome("refused")
            if self._length.is_shortened(requests[0], error):
                raise _AskAgainError(str(error)) from None
            if (why := self._breaker.refused(error)) is not None:
                raise EndpointError(why) from None
            raise
        finally:
            self._gate.release(ticket, outcome)

    async def _admitted(self, most: Estimate) -> int:
        """A ticket from the gate, once the request may be sent; after `stop`, its error."""
        if self._stopped:
            raise type(self._stopped)(str(self._stopped))
        task = asyncio.current_task()
        assert task
        self._admissions.add(task)
        try:
            return await self._gate.admit(most)
        except asyncio.CancelledError:
            if self._stopped and not task.uncancel():  # only by `stop`; the gate has taken the request back
                raise type(self._stopped)(str(self._stopped)) from None
            raise
        finally:
            self._admissions.discard(task)

    async def _kept(self, requests: Sequence[Request], good: Sequence[Completion]) -> list[JournalledCompletion]:
        """Put answers into the journal.

        The request counts as in flight until they are durable, so that a crash loses no more than those in flight.
        """
        again = refresh.get()
        kept = await _together(
            [self._answers.put(request.key, done, replace=again) for request, done in zip(requests, good, strict=False)]
        )
        if again:
            self._refreshed |= {request.key for request in requests[: len(kept)]}
        for request, done in zip(requests, kept, strict=False):
            await self._sample_watch.see(request, done)
        return [JournalledCompletion(done, reused=False) for done in kept]

    def _failure(self, error: TransientError, key: str) -> CallOutcome:
        if error.adapted:
            return CallOutcome("refused")
        if self._batch:  # the server accepted the batch: a failed line says nothing about the endpoint
            return CallOutcome("failed", accounted=not error.billed)
        if error.throttled:
            return CallOutcome("throttled", retry_after=error.retry_after, why=str(error))
        self._failing.add(key)
        # If one request keeps failing, the request is at fault. If all do, the endpoint is.
        most = SUSPECTS if self._answered else MOST_REFUSALS
        error.down = error.down or len(self._failing) >= most
        return CallOutcome(
            "failed",
            accounted=not error.billed,
            retry_after=error.retry_after,
            down=error.down,
            unreachable=error.unreachable,
            why=str(error),
        )

    def _usage(self, completions: Sequence[Completion], most: Estimate) -> CallOutcome:
        """The tokens that an answer used. If the server's counts are missing or impossible, the estimate is used."""
        tokens_in, tokens_out, cached, written = (
            sum(max(0, getattr(done, name)) for done in completions)
            for name in ("tokens_in", "tokens_out", "tokens_cached", "tokens_written")
        )
        accounted = tokens_in > 0 and tokens_out > 0
        self._counts_tokens = self._counts_tokens and (accounted or not any(done.text for done in completions))
        tokens = tokens_in + tokens_out if accounted else max(most.tokens, tokens_in + tokens_out)
        return CallOutcome("answered", tokens, self.spec.cost(tokens_in, tokens_out, cached, written), tokens_in, accounted)


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all coroutines.

    A single one is awaited without a task, which would cost as much as a look-up in the journal.
    """
    return [await work[0]] if len(work) == 1 else await asyncio.gather(*work)


def _why_empty(empty: Completion, request: Request) -> str:
    if empty.truncated and empty.reasons:
        most = request.max_tokens
        return f"empty answer: its reasoning took all of max_tokens={most}, which covers both reasoning and answer; raise it"
    only = ", only reasoning" if empty.reasoning else ""
    return f"empty answer{only} (finish_reason {empty.finish_reason!r})"


def _discard(completions: Iterable[Completion | None]) -> None:
    """Note answers that cost something but are returned to no one; see row_context."""
    if (noted := discarded.get()) is not None:
        noted += [each for each in completions if each is not None]


def _wake(sleeping: asyncio.Future[None]) -> None:
    if not sleeping.done():
        sleeping.set_result(None)
