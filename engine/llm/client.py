"""A model of a pipeline in one worker: the journal, the limits and the retries between an operator and a provider."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.llm.journal.answers import Answers
from engine.llm.limits.accounting import Ask, Outcome
from engine.llm.limits.circuit_breaker import Breaker
from engine.llm.limits.governor import Gate
from engine.llm.limits.outage import PATIENCE_SECONDS, SUSPECTS
from engine.llm.providers.capabilities import SampleWatch
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.refresh import refresh
from engine.llm.types.requests import (
    BudgetError,
    Completion,
    EndpointError,
    ModelError,
    Provider,
    Request,
    RequestError,
    Spent,
    TransientError,
)
from engine.llm.types.structured import in_words

if TYPE_CHECKING:
    from tenacity import RetryCallState

_WORDS = 160
_CAP_SECONDS, _MOST_RETRY_AFTER = 60.0, 600.0
_CAP_SECONDS_DOWN = 15.0


@dataclass(frozen=True)
class Answer:
    """An answer, and whether it was there before."""

    completion: Completion
    reused: bool


class _EmptyAnswerError(RequestError):
    """The server answered without a word."""


class ModelClient:
    """One model of a pipeline in one worker, whatever roles it fills: one client, one set of limits, one journal.

    Args:
        spec: the model as the pipeline names it.
        identity: what determines its answers besides the prompt and the sampling parameters.
        answers: the journal.
        gate: the model's limits.
        provider: makes the client on first use, inside the event loop.
    """

    def __init__(self, spec: ModelSpec, identity: str, answers: Answers, gate: Gate, provider: Callable[[], Provider]) -> None:
        self.spec = spec
        self.identity = identity
        self._answers = answers
        self._gate = gate
        self._make = provider
        self._batch = spec.mode == "batch"
        self._provider: Provider | None = None
        self._asking: dict[str, asyncio.Future[Completion]] = {}
        self._renewed: set[str] = set()
        self._sleeping: set[asyncio.Future[None]] = set()
        self._trouble = ""
        self._counts = True
        self._failing: set[str] = set()
        self._watch = SampleWatch(spec, answers)
        self._breaker = Breaker()
        self._answered = 0
        self._stopped: ModelError | None = None

    @property
    def spent(self) -> Spent:
        """What was spent here; nothing when another process keeps the account."""
        return self._gate.spent

    @property
    def asking(self) -> int:
        """How many answers are being asked for now."""
        return len(self._asking)

    @property
    def trouble(self) -> str:
        """What keeps the server from answering now, in its words; nothing when it answers."""
        return self._trouble or str(getattr(self._provider, "trouble", ""))

    @property
    def notes(self) -> list[str]:
        """What users should know about the server."""
        said = f"{self.spec.endpoint} does not say how many tokens answers took; budgets reckon with the most"
        uncounted = [] if self._counts else [said]
        if unreadable := len(self._answers.unreadable):
            uncounted.append(f"{unreadable} entries of the journal are not whole answers, so these were asked for again")
        return [*uncounted, *self._watch.notes, *(self._provider.notes if self._provider else [])]

    def stop(self, why: ModelError) -> None:
        """Send no further request: every call from now on fails with `why`; those under way come to their end."""
        if self._stopped:
            return
        self._stopped = why
        self._gate.stop(why)
        for sleeping in self._sleeping:
            _wake(sleeping)
        if self._provider:
            self._provider.stop(why)

    async def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers to requests that differ in nothing but `sample`; what is in the journal is not asked for.

        Rows that ask the same at the same time share one call.
        """
        found: dict[str, Answer] = {}
        for request, answer in zip(requests, await asyncio.gather(*[self._known(r.key) for r in requests]), strict=True):
            if answer is not None:
                self._breaker.answered()
                found[request.key] = answer
        missing = {request.key: request for request in requests if request.key not in found}
        if missing:
            found |= await self._ask_for(list(missing.values()))
        return [found[request.key] for request in requests]

    async def close(self) -> None:
        """Let the client go."""
        if self._provider:
            await self._provider.close()

    async def _known(self, key: str) -> Answer | None:
        """An answer that is there, or that somebody is waiting for already."""
        while (waiting := self._asking.get(key)) is not None:
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                return Answer(waiting.result(), reused=True)
        completion = None if self._again(key) else await self._answers.get(key)
        if key in self._asking:  # somebody began to ask while the journal was looked up
            return await self._known(key)
        return None if completion is None else Answer(completion, reused=True)

    def _again(self, key: str) -> bool:
        """Whether an answer that is there is to be asked for anew; once is enough for all rows that ask the same."""
        return refresh.get() and key not in self._renewed

    async def _ask_for(self, requests: Sequence[Request]) -> dict[str, Answer]:
        loop = asyncio.get_running_loop()
        asking = {request.key: loop.create_future() for request in requests if request.key not in self._asking}
        self._asking |= asking
        found: dict[str, Answer] = {}
        try:
            while left := [request for request in requests if request.key in asking and request.key not in found]:
                groups = [[request] for request in left] if self._batch else [left]  # each line of a batch is billed
                results = await asyncio.gather(*[self._ask(group) for group in groups], return_exceptions=True)
                for group, result in zip(groups, results, strict=True):
                    for request, answer in zip(group, [] if isinstance(result, BaseException) else result, strict=False):
                        found[request.key] = answer
                        asking[request.key].set_result(answer.completion)
                errors = [result for result in results if isinstance(result, BaseException)]
                # Of several samples, those without a word are asked for again while others come.
                if hard := [error for error in errors if not isinstance(error, _EmptyAnswerError)] or errors[len(groups) - 1 :]:
                    raise hard[0]
        except asyncio.CancelledError:
            for future in asking.values():
                future.cancel()
            raise
        except Exception as error:
            for future in asking.values():
                if not future.done():
                    # Without its answer, which is paid once; and an exception of its own: one grows wherever it is raised.
                    future.set_exception(type(error)(str(error)) if isinstance(error, ModelError) else error)
                    future.exception()  # seen: no warning when nobody else was waiting
            if isinstance(error, RequestError):
                error.found = [(request, found[request.key]) for request in requests if request.key in found]
            raise
        finally:
            for key in asking:
                del self._asking[key]
        for request in requests:
            if request.key not in found:  # of a group, somebody else had begun to ask for this one
                [found[request.key]] = await self.answer([request])
        return found

    async def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers to the first of some requests (at least one), after as many tries as the failures deserve."""
        from tenacity import AsyncRetrying, retry_if_exception_type, wait_none

        if self._provider is None:
            self._provider = self._make()
        patience = _Patience(self, self.spec.retries)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=patience.is_used_up,
            wait=wait_none() if self._batch else _wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(self._send, self._provider, requests)
        except TransientError as error:
            tried = "1 try" if patience.counted == 1 else f"{patience.counted} tries"
            raise RequestError(f"no answer in {tried}; the last: {error}") from error
        except (EndpointError, BudgetError) as error:
            self.stop(error)
            raise

    async def _sleep(self, seconds: float) -> None:
        """Wait before the next try; a stop ends it."""
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

    async def _send(self, provider: Provider, requests: Sequence[Request]) -> list[Answer]:
        most = self._most(requests)
        ticket = await self._gate.admit(most)
        outcome = Outcome("unsent")
        try:
            # Another worker or another run may have been answered while this one waited for its turn.
            known = None if self._again(requests[0].key) else await self._answers.get(requests[0].key)
            if known is not None:
                return [Answer(known, reused=True)]
            # What was let out before the budget was used up is paid by it.
            if self._stopped and not isinstance(self._stopped, BudgetError):
                raise type(self._stopped)(str(self._stopped))
            await self._answers.room()
            # Whatever becomes of it (a time-out, a reset, a row that gives up): the server may bill it.
            outcome = Outcome("failed", accounted=False)
            completions = await provider.complete(requests)
            outcome = self._paid(completions, most)
            self._answered += 1
            self._breaker.answered()
            self._failing.clear()
            self._trouble = ""
            good = [done for done in completions if done.text.strip()]
            if not good:
                # Not journalled: an empty answer is not one, and asking again may give one.
                empty = completions[0]
                raise _EmptyAnswerError(f"empty answer (finish_reason {empty.finish_reason!r})", empty)
            return await self._kept(requests, good)
        except TransientError as error:
            # An answer that broke off may have been paid for.
            broken = error.completion
            outcome = self._failed(error, requests[0].key) if broken is None else self._paid([broken], most)
            self._trouble = str(error)[:_WORDS]
            raise
        except RequestError as error:
            if outcome.kind == "failed" and error.completion is not None:
                outcome = self._paid([error.completion], most)
            elif outcome.kind == "failed" and error.refused:
                outcome = Outcome("refused")
            if (why := self._breaker.refused(error)) is not None:
                raise EndpointError(why) from None
            raise
        finally:
            self._gate.settle(ticket, outcome)

    async def _kept(self, requests: Sequence[Request], good: Sequence[Completion]) -> list[Answer]:
        """Put answers into the journal.

        The place among the requests in flight is kept until they are durable: a crash loses no more than those.
        """
        again = refresh.get()
        kept = await asyncio.gather(
            *[self._answers.put(request.key, done, replace=again) for request, done in zip(requests, good, strict=False)]
        )
        if again:
            self._renewed |= {request.key for request in requests[: len(kept)]}
        for request, done in zip(requests, kept, strict=False):
            await self._watch.see(request, done)
        return [Answer(done, reused=False) for done in kept]

    def _failed(self, error: TransientError, key: str) -> Outcome:
        if error.differently:
            return Outcome("refused")
        if self._batch:  # the server took the batch: a line that failed says nothing of the endpoint
            return Outcome("failed", accounted=not error.billed)
        if error.throttled:
            return Outcome("throttled", retry_after=error.retry_after)
        self._failing.add(key)
        # One request that fails again and again is at fault itself; when all do, and were answered before, the endpoint is.
        error.down = error.down or (self._answered > 0 and len(self._failing) >= SUSPECTS)
        return Outcome(
            "failed",
            accounted=not error.billed,
            retry_after=error.retry_after,
            down=error.down,
            unreachable=error.unreachable,
            why=str(error),
        )

    def _paid(self, completions: Sequence[Completion], most: Ask) -> Outcome:
        """What an answer took. Counts that are missing or impossible give nothing back of what it may take at most."""
        tokens_in, tokens_out = (
            sum(max(0, getattr(done, name)) for done in completions) for name in ("tokens_in", "tokens_out")
        )
        accounted = tokens_in > 0 and tokens_out > 0
        self._counts = self._counts and (accounted or not any(done.text for done in completions))
        tokens = tokens_in + tokens_out if accounted else max(most.tokens, tokens_in + tokens_out)
        return Outcome("answered", tokens, self.spec.cost(tokens_in, tokens_out), tokens_in, accounted)

    def _most(self, requests: Sequence[Request]) -> Ask:
        """What some requests may take at most."""
        tokens_in, tokens_out = token_bound(requests[0])
        tokens_in += len(json.dumps(self.spec.extra_body)) if self.spec.extra_body else 0
        tokens_out *= len(requests)
        return Ask(requests[0].key, tokens_in // BYTES_PER_TOKEN + tokens_out, self.spec.cost(tokens_in, tokens_out))


BYTES_PER_TOKEN = 4
"""Of usual text; a token bucket that reckons with the bound would let far too little out."""


def token_bound(request: Request) -> tuple[int, int]:
    """At most so many prompt and completion tokens: a token is at least one byte; a message's frame is under 16.

    What the server's chat template adds to the whole is not in it: see Budget.
    """
    messages = in_words(request.messages, request.schema) if request.schema else request.messages
    prompt = sum(len(message["content"].encode()) + 16 for message in messages)
    return prompt, int(request.sampling["max_tokens"])


def _wake(sleeping: asyncio.Future[None]) -> None:
    if not sleeping.done():
        sleeping.set_result(None)


class _Patience:
    """When to give up on a request: after `retries` further tries.

    A 429 is no try of this request's as long as others are answered: the server is busy, not broken. Trouble of the
    endpoint is none as long as nobody is answered, for as long as an outage may last: see Outage.
    """

    def __init__(self, model: ModelClient, retries: int) -> None:
        self._model = model
        self._retries = retries
        self._answered = model._answered
        self._since: float | None = None
        self.counted = 0

    def is_used_up(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        progress = self._model._answered > self._answered
        self._answered = self._model._answered
        self.counted += not (isinstance(error, TransientError) and self._is_excused(error, progress))
        return self.counted > self._retries

    def _is_excused(self, error: TransientError, progress: bool) -> bool:
        if self._model.spec.mode == "batch":
            return error.differently
        now = time.monotonic()
        self._since = now if self._since is None or progress else self._since
        if error.unreachable:
            return True  # the gate gives up, for all
        if error.down:
            patience = self._model.spec.limits.patience
            unset = PATIENCE_SECONDS if self._model._answered else 0.0
            return not progress and now - self._since < (unset if patience is None else patience)
        return error.differently or (error.throttled and progress)


def _wait(state: RetryCallState) -> float:
    """The server's Retry-After when it gave one, with full jitter on an exponential ceiling otherwise."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TransientError) and (error.differently or error.unreachable):
        return 0.0  # in an outage the gate says when
    if isinstance(error, TransientError) and error.retry_after is not None:
        return min(error.retry_after, _MOST_RETRY_AFTER) + random.uniform(0, 0.1)
    cap = _CAP_SECONDS_DOWN if isinstance(error, TransientError) and error.down else _CAP_SECONDS
    return random.uniform(0, min(cap, 0.5 * 2 ** min(state.attempt_number, 10)))
