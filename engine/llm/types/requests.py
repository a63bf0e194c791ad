"""What a model client takes and gives, and how it fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, FiniteFloat

from registry.storage.objects import json_digest

MOST_TOKENS = 2**40
"""More tokens than any answer has: a server that counts more is not believed, and sums of such counts fit every column."""

LEAST_LOGPROB = -1e9
"""Stands for minus infinity, which JSON does not have."""


class ModelError(Exception):
    """A call to a model did not give a usable answer."""


class EndpointError(ModelError):
    """Something is wrong with the endpoint (key, model name, address): every call would fail, so the step stops."""


class RequestError(ModelError):
    """This request, or its answer's content, is at fault: the row is rejected with the reason.

    Args:
        message: why, with the server's words.
        completion: the answer, where there was one: it was paid for.
        refused: the server refused the request as it was put (400, 422).

    Attributes:
        found: (request, answer) of other samples of the prompt, which are there.
    """

    @property
    def declined(self) -> bool:
        """Whether the model itself gave no answer: it ended its turn at once, or refused."""
        return self.completion is not None and self.completion.finish_reason in ("stop", "length", "refusal")

    def __init__(self, message: str, completion: Completion | None = None, *, refused: bool = False) -> None:
        super().__init__(message)
        self.completion = completion
        self.refused = refused
        self.found: list[Any] = []


class TransientError(ModelError):
    """A failure that may pass (408, 409, 429, 5xx, time-outs, resets).

    Args:
        message: what happened, with the server's words.
        retry_after: the server's wish in seconds.
        unreachable: nobody listens there; when that does not pass, it concerns every request.
        throttled: the server takes no more for now (429).
        differently: the provider will put it in other words, at once; this is no try of the request's.
        refused: the server may have broken down over how the request was put (5xx).
        completion: the part of an answer that came, where one did: it may have been paid for.
        down: the endpoint, not the request, is in trouble (nobody listens, a gateway without its server, a reset).
        billed: the server may bill the request all the same, because it may have worked on it.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        *,
        unreachable: bool = False,
        throttled: bool = False,
        differently: bool = False,
        refused: bool = False,
        completion: Completion | None = None,
        down: bool = False,
        billed: bool = True,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.throttled = throttled
        self.differently = differently
        self.refused = refused
        self.completion = completion
        self.down = down or unreachable
        self.billed = billed and not (unreachable or throttled or differently)


class BudgetError(ModelError):
    """The next call could exceed the model's budget: the step stops, finished work is kept."""


class StoppedError(ModelError):
    """The call was not sent, because the step has failed elsewhere."""


@dataclass(frozen=True)
class Request:
    """One answer asked of a model. Every field shapes the answer, so every field is in its key.

    Attributes:
        endpoint: base URL, or the name of an in-process provider.
        model: model name; for an in-process model, what identifies its weights.
        messages: ({"role": ..., "content": ...}, ...).
        sampling: temperature, top_p, max_tokens, stop, seed; `logprobs` (how many alternatives) where they are asked for.
        sample: 0 for the first answer to this prompt, 1 for the second, ...
        schema: a JSON Schema that the answer should follow. How it is asked for (`response_format`, or in words) is the
            provider's business and not in the key: a server that learns the one or loses the other changes no key.
    """

    endpoint: str
    model: str
    messages: tuple[dict[str, str], ...]
    sampling: dict[str, Any]
    sample: int = 0
    schema: dict[str, Any] | None = None

    @cached_property
    def key(self) -> str:
        """SHA-256 of the request's canonical JSON: its name in the journal, and the `call_id` in SQL."""
        document = {
            "endpoint": self.endpoint,
            "model": self.model,
            "messages": list(self.messages),
            "sampling": self.sampling,
            "sample": self.sample,
        }
        return json_digest(document if self.schema is None else document | {"schema": self.schema})

    @property
    def seed(self) -> int | None:
        """The seed to send: samples of one prompt must differ, so each has its own."""
        seed = self.sampling["seed"]
        return None if seed is None else seed + self.sample


def tokens(value: Any) -> int:
    """A server's count of tokens, or 0 (it does not say) where that is none: negative, absurd, not an integer."""
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0


class TokenLogprob(BaseModel):
    """A generated token, the natural logarithm of its probability, and the likeliest alternatives (token -> logprob).

    Probabilities are the model's own, before temperature and top_p, as OpenAI reports them.
    """

    model_config = ConfigDict(frozen=True)

    token: str
    logprob: FiniteFloat
    top: dict[str, FiniteFloat] = {}


class Completion(BaseModel):
    """A model's answer, as it is kept in the journal.

    Args:
        text: the answer.
        finish_reason: `stop`; `length` when max_tokens, or another limit, cut it off; `tool_calls`. In an error's completion
            also `refusal`, `content_filter`, `error` or `unknown`.
        tokens_in, tokens_out: as the server counted them (0 when it does not say). Of several samples that came in one
            answer, the prompt counts for the first.
        latency_ms: from sending to the whole answer.
        logprobs: a line for each token of the answer, where they were asked for.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    finish_reason: str = "stop"
    tokens_in: Annotated[int, BeforeValidator(tokens)] = 0
    tokens_out: Annotated[int, BeforeValidator(tokens)] = 0
    latency_ms: FiniteFloat = 0.0
    logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def truncated(self) -> bool:
        """Whether max_tokens, or another limit, cut the answer off."""
        return self.finish_reason == "length"


class Spent(BaseModel):
    """What was spent on a model: US dollars, and requests (tries count)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd: float = 0.0
    calls: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(usd=self.usd + other.usd, calls=self.calls + other.calls)


class Provider(Protocol):
    """Sends requests to one model. Retries, limits and the journal are not its work.

    Attributes:
        notes: what users should know about the server, such as what it cannot do.
    """

    notes: list[str]

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers to requests that differ in nothing but `sample`, in order.

        A provider that cannot give several answers to a prompt at once gives those of the first requests only (at
        least one), and is asked again for the others. Raises TransientError, RequestError or EndpointError.
        """
        ...

    def stop(self, why: ModelError) -> None:
        """The step has failed: requests that can be collected another time need not come to their end."""
        ...

    async def close(self) -> None:
        """Let connections and memory go."""
        ...


def as_messages(prompt: str | Iterable[Mapping[str, Any] | BaseModel]) -> tuple[dict[str, str], ...]:
    """A text (one user message) or a list of messages (records or dicts with role and content)."""
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    turns = [turn.model_dump() if isinstance(turn, BaseModel) else dict(turn) for turn in prompt]
    return tuple({"role": str(turn["role"]), "content": str(turn["content"])} for turn in turns)
