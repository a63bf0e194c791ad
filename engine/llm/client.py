"""The model as an operator sees it: ask, and the journal, the limits and the retries are taken care of."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from engine.llm.base import (
    BudgetError,
    Completion,
    EndpointError,
    ModelError,
    PassingError,
    Provider,
    Request,
    RequestError,
    as_messages,
)
from engine.llm.journal import Journal
from engine.llm.limits import Gate
from engine.spec import ModelSpec

_CAP_SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """A call that an operator made, as lineage: which answer, whether it was new, and what it cost when it was made."""

    call_id: str
    role: str
    model: str
    messages: tuple[dict[str, str], ...]
    completion: Completion
    reused: bool
    cost_usd: float


@dataclass
class CallLog:
    """The calls made for one row, in order of their answers."""

    calls: list[Call] = field(default_factory=list)


current_log: ContextVar[CallLog] = ContextVar("current_log")
"""Set by the engine around each row, so that calls are linked to the row they were made for."""


class SharedModel:
    """One model of a pipeline in one worker, whatever roles it fills: one client, one set of limits, one journal.

    Args:
        spec: the model as the pipeline names it.
        identity: what determines its answers besides the prompt and the sampling parameters.
        provider: makes the client on first use, inside the event loop.
    """

    def __init__(self, spec: ModelSpec, identity: str, journal: Journal, gate: Gate, provider: Callable[[], Provider]) -> None:
        self.spec = spec
        self.identity = identity
        self.gate = gate
        self._journal = journal
        self._make = provider
        self._provider: Provider | None = None
        self._asking: dict[str, asyncio.Future[Completion]] = {}
        self._stopped: ModelError | None = None

    def stop(self, why: ModelError) -> None:
        """Send no further request: every call from now on fails with `why`; those under way come to their end."""
        self._stopped = self._stopped or why

    async def answer(self, request: Request) -> tuple[Completion, bool]:
        """(the answer, whether it was there before); rows that ask the same at the same time share one call."""
        key = request.key
        while (waiting := self._asking.get(key)) is not None:
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                return waiting.result(), True
        completion = self._journal.get(key)
        if completion is not None:
            return completion, True
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._asking[key] = answer
        try:
            completion = await self._ask(request)
            answer.set_result(completion)
        except asyncio.CancelledError:
            answer.cancel()
            raise
        except Exception as error:
            answer.set_exception(error)
            answer.exception()  # seen: no warning when nobody else was waiting
            raise
        finally:
            del self._asking[key]
        return completion, False

    async def close(self) -> None:
        """Let the client go."""
        if self._provider:
            await self._provider.close()

    async def _ask(self, request: Request) -> Completion:
        if self._provider is None:
            self._provider = self._make()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PassingError),
            stop=stop_after_attempt(self.spec.retries + 1),
            wait=_wait,
            reraise=True,
        )
        completion = None
        try:
            async for attempt in retrying:
                with attempt:
                    completion = await self._send(self._provider, request)
        except PassingError as error:
            said = f"no answer after {self.spec.retries + 1} tries; the last: {error}"
            raised = EndpointError(said) if error.unreachable else RequestError(said)
            if isinstance(raised, EndpointError):
                self.stop(raised)
            raise raised from error
        except (EndpointError, BudgetError) as error:
            self.stop(error)
            raise
        assert completion is not None
        return completion

    async def _send(self, provider: Provider, request: Request) -> Completion:
        async with self.gate.admit(request):
            completion = None
            try:
                if self._stopped:
                    raise self._stopped
                completion = await provider.complete(request)
            finally:
                self.gate.settle(request, completion)
            if not completion.text.strip():
                # Not journalled: an empty answer is not one, and asking again may give one.
                raise RequestError(f"empty answer (finish_reason {completion.finish_reason!r})")
            # The place among the requests in flight is kept until the answer is durable: a crash loses no more than those.
            return await self._journal.put(request.key, completion)


class ChatModel:
    """A model in a role of an operator.

    Args:
        role: the operator's word for it (`teacher`).
        model: the model that fills it.
        name: what the model is called where it must be found again: for a version in the registry, NAME@V.
        path: makes the folder of its weights, for a model in this process.
    """

    def __init__(self, role: str, model: SharedModel, name: str, path: Callable[[], Path]) -> None:
        self.role = role
        self.name = name
        self._model = model
        self._path = path

    @property
    def spec(self) -> ModelSpec:
        """The model as the pipeline names it."""
        return self._model.spec

    @property
    def path(self) -> Path:
        """The folder with the weights and the tokenizer (in-process models only)."""
        return self._path()

    async def chat(self, prompt: str | Sequence[Any], *, sample: int = 0, **sampling: Any) -> Completion:
        """The model's answer to a prompt.

        Args:
            prompt: a text, or messages (records or dicts with role and content).
            sample: 0 for the first answer to this prompt, 1 for another one, ...
            sampling: temperature, top_p, max_tokens, stop or seed in place of the pipeline's.

        Raises:
            RequestError: the server refused this request, or answered nothing; left uncaught, the row is rejected.
            EndpointError: no request can succeed; left uncaught, the step stops.
        """
        wanted = self.spec.sampling()
        if sampling:
            # Validated, so that 0 and 0.0 are one temperature and a misspelt parameter is an error.
            wanted = ModelSpec.model_validate({**self.spec.model_dump(), **sampling}).sampling()
        request = Request(self.spec.endpoint, self._model.identity, as_messages(prompt), wanted, sample)
        completion, reused = await self._model.answer(request)
        cost = self._model.gate.cost(completion.tokens_in, completion.tokens_out)
        call = Call(request.key, self.role, self.spec.model, request.messages, completion, reused, cost)
        current_log.get().calls.append(call)
        return completion


def _wait(state: RetryCallState) -> float:
    """The server's Retry-After when it gave one, with full jitter on an exponential ceiling otherwise."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, PassingError) and error.retry_after is not None:
        return min(error.retry_after, _CAP_SECONDS) + random.uniform(0, 0.1)
    return random.uniform(0, min(_CAP_SECONDS, 0.5 * 2**state.attempt_number))
