"""A model of a pipeline in one worker: the journal, the limits and the retries between an operator and a provider."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from engine.llm.abilities import SampleWatch
from engine.llm.base import (
    BudgetError,
    Completion,
    EndpointError,
    ModelError,
    PassingError,
    Provider,
    Request,
    RequestError,
    Spent,
)
from engine.llm.breaker import Breaker
from engine.llm.journal import Answers
from engine.llm.limits import Ask, Gate, Outcome
from engine.spec import ModelSpec

_WORDS = 160
_CAP_SECONDS, _MOST_RETRY_AFTER = 60.0, 600.0

ask_again: ContextVar[bool] = ContextVar("ask_again", default=False)
"""Set while a rejected row is run again: answers in the journal, which led to the reject, are asked for anew."""


@dataclass(frozen=True)
class Answer:
    """An answer, and whether it was there before."""

    completion: Completion
    reused: bool


class SharedModel:
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
        self._provider: Provider | None = None
        self._asking: dict[str, asyncio.Future[Completion]] = {}
        self._renewed: set[str] = set()
        self._sleeping: set[asyncio.Future[None]] = set()
        self.spent = Spent()
        self.trouble = ""
        self._counts = True
        self._watch = SampleWatch(spec, answers)
        self._breaker = Breaker()
        self._answered = 0
        self._stopped: ModelError | None = None

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
        return ask_again.get() and key not in self._renewed

    async def _ask_for(self, requests: Sequence[Request]) -> dict[str, Answer]:
        loop = asyncio.get_running_loop()
        asking = {request.key: loop.create_future() for request in requests if request.key not in self._asking}
        self._asking |= asking
        found: dict[str, Answer] = {}
        try:
            while left := [request for request in requests if request.key in asking and request.key not in found]:
                for request, answer in zip(left, await self._ask(left), strict=False):
                    found[request.key] = answer
                    asking[request.key].set_result(answer.completion)
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
        if self._provider is None:
            self._provider = self._make()
        patience = _Patience(self, self.spec.retries)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PassingError),
            stop=patience.is_used_up,
            wait=_wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(self._send, self._provider, requests)
        except PassingError as error:
            tried = "1 try" if patience.counted == 1 else f"{patience.counted} tries"
            said = f"no answer in {tried}; the last: {error}"
            raised = EndpointError(said) if error.unreachable else RequestError(said)
            if isinstance(raised, EndpointError):
                self.stop(raised)
            raise raised from error
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
            if self._stopped:
                raise type(self._stopped)(str(self._stopped))
            outcome = Outcome("failed")
            self.spent += Spent(calls=1)
            completions = await provider.complete(requests)
            outcome = self._paid(completions, most)
            self._answered += 1
            self._breaker.answered()
            self.trouble = ""
            good = [done for done in completions if done.text.strip()]
            if not good:
                # Not journalled: an empty answer is not one, and asking again may give one.
                empty = completions[0]
                raise RequestError(f"empty answer (finish_reason {empty.finish_reason!r})", empty)
            # The place among the requests in flight is kept until the answers are durable: a crash loses no more than those.
            again = ask_again.get()
            kept = await asyncio.gather(
                *[self._answers.put(request.key, done, replace=again) for request, done in zip(requests, good, strict=False)]
            )
            if again:
                self._renewed |= {request.key for request in requests[: len(kept)]}
            for request, done in zip(requests, kept, strict=False):
                await self._watch.see(request, done)
            return [Answer(done, reused=False) for done in kept]
        except PassingError as error:
            outcome = Outcome("throttled" if error.throttled else "failed", retry_after=error.retry_after)
            if error.completion is not None:  # it broke off, and may have been paid for
                outcome = self._paid([error.completion], most)
            self.trouble = str(error)[:_WORDS]
            raise
        except RequestError as error:
            if error.completion is not None and outcome.kind == "failed":
                outcome = self._paid([error.completion], most)
            if (why := self._breaker.refused(error)) is not None:
                raise EndpointError(why) from None
            raise
        finally:
            self._gate.settle(ticket, outcome)

    def _paid(self, completions: Sequence[Completion], most: Ask) -> Outcome:
        """What an answer took; of a server that does not count, what it may have taken at most."""
        usage = [(done.tokens_in, done.tokens_out) for done in completions]
        tokens, cost = sum(map(sum, usage)), sum(self.spec.cost(*each) for each in usage)
        self.spent += Spent(usd=cost if tokens else most.cost)
        self._counts = self._counts and bool(tokens)
        return Outcome("answered", tokens, cost) if tokens else Outcome("answered", most.tokens, most.cost)

    def _most(self, requests: Sequence[Request]) -> Ask:
        """What some requests may take at most."""
        tokens_in, tokens_out = token_bound(requests[0])
        tokens_out *= len(requests)
        return Ask(requests[0].key, tokens_in // BYTES_PER_TOKEN + tokens_out, self.spec.cost(tokens_in, tokens_out))


BYTES_PER_TOKEN = 4
"""Of usual text; a token bucket that reckons with the bound would let far too little out."""


def token_bound(request: Request) -> tuple[int, int]:
    """At most so many prompt and completion tokens: a token is at least one byte; a message's frame is under 16."""
    prompt = sum(len(message["content"].encode()) + 16 for message in request.messages)
    return prompt + (len(str(request.schema)) if request.schema else 0), int(request.sampling["max_tokens"])


def _wake(sleeping: asyncio.Future[None]) -> None:
    if not sleeping.done():
        sleeping.set_result(None)


class _Patience:
    """When to give up on a request: after `retries` further tries.

    A 429 is no try of this request's as long as others are answered: the server is busy, not broken.
    """

    def __init__(self, model: SharedModel, retries: int) -> None:
        self._model = model
        self._retries = retries
        self._answered = model._answered
        self.counted = 0

    def is_used_up(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        progress = self._model._answered > self._answered
        self._answered = self._model._answered
        if not (isinstance(error, PassingError) and (error.differently or (error.throttled and progress))):
            self.counted += 1
        return self.counted > self._retries


def _wait(state: RetryCallState) -> float:
    """The server's Retry-After when it gave one, with full jitter on an exponential ceiling otherwise."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, PassingError) and error.differently:
        return 0.0
    if isinstance(error, PassingError) and error.retry_after is not None:
        return min(error.retry_after, _MOST_RETRY_AFTER) + random.uniform(0, 0.1)
    return random.uniform(0, min(_CAP_SECONDS, 0.5 * 2 ** min(state.attempt_number, 10)))
