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

from engine.llm.base import Completion, EndpointError, PassingError, Provider, Request, RequestError, as_messages
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


class ChatModel:
    """A model bound to a role of an operator.

    Args:
        role: the operator's word for it (`teacher`).
        spec: the model as the pipeline names it.
        identity: what determines its answers besides the prompt and the sampling parameters.
        path: the folder of its weights, for a model in this process.
        provider: makes the client on first use, inside the event loop.
    """

    def __init__(
        self,
        role: str,
        spec: ModelSpec,
        identity: str,
        journal: Journal,
        gate: Gate,
        provider: Callable[[], Provider],
        path: Callable[[], Path],
    ) -> None:
        self.role = role
        self.spec = spec
        self._identity = identity
        self._journal = journal
        self._gate = gate
        self._make = provider
        self._provider: Provider | None = None
        self._path = path
        self._asking: dict[str, asyncio.Future[Completion]] = {}

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
        wanted = {**self.spec.sampling(), **sampling}
        request = Request(self.spec.endpoint, self._identity, as_messages(prompt), wanted, sample)
        key = request.key
        if (waiting := self._asking.get(key)) is not None:
            # A duplicate row asks the same at the same time: one call serves both.
            return self._note(key, request, await asyncio.shield(waiting), reused=True)
        completion = self._journal.get(key)
        if completion is not None:
            return self._note(key, request, completion, reused=True)
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._asking[key] = answer
        try:
            completion = await self._ask(request)
            await self._journal.put(key, completion)
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
        return self._note(key, request, completion, reused=False)

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
        try:
            async for attempt in retrying:
                with attempt:
                    async with self._gate.admit(request):
                        completion = None
                        try:
                            completion = await self._provider.complete(request)
                        finally:
                            self._gate.settle(request, completion)
        except PassingError as error:
            said = f"no answer after {self.spec.retries + 1} tries; the last: {error}"
            raise (EndpointError if error.unreachable else RequestError)(said) from error
        assert completion is not None
        if not completion.text.strip():
            # Not journalled: an empty answer is not one, and asking again may give one.
            raise RequestError(f"empty answer (finish_reason {completion.finish_reason!r})")
        return completion

    def _note(self, key: str, request: Request, completion: Completion, *, reused: bool) -> Completion:
        cost = self._gate.cost(completion.tokens_in, completion.tokens_out)
        call = Call(key, self.role, self.spec.model, request.messages, completion, reused, cost)
        current_log.get().calls.append(call)
        return completion


def _wait(state: RetryCallState) -> float:
    """The server's Retry-After when it gave one, with full jitter on an exponential ceiling otherwise."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, PassingError) and error.retry_after is not None:
        return min(error.retry_after, _CAP_SECONDS) + random.uniform(0, 0.1)
    return random.uniform(0, min(_CAP_SECONDS, 0.5 * 2**state.attempt_number))
