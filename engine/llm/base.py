"""What a model client takes and gives, and how it fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from registry.store import json_digest


class ModelError(Exception):
    """A call to a model did not give a usable answer."""


class EndpointError(ModelError):
    """Something is wrong with the endpoint (key, model name, address): every call would fail, so the step stops."""


class RequestError(ModelError):
    """This request, or its answer's content, is at fault: the row is rejected with the reason."""


class PassingError(ModelError):
    """A failure that may pass (408, 409, 429, 5xx, time-outs, resets).

    Args:
        message: what happened, with the server's words.
        retry_after: the server's wish in seconds.
        unreachable: nobody listens there; when that does not pass, it concerns every request.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unreachable = unreachable


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
        sampling: temperature, top_p, max_tokens, stop, seed.
        sample: 0 for the first answer to this prompt, 1 for the second, ...
    """

    endpoint: str
    model: str
    messages: tuple[dict[str, str], ...]
    sampling: dict[str, Any]
    sample: int = 0

    @property
    def key(self) -> str:
        """SHA-256 of the request's canonical JSON: its name in the journal, and the `call_id` in SQL."""
        return json_digest(
            {
                "endpoint": self.endpoint,
                "model": self.model,
                "messages": list(self.messages),
                "sampling": self.sampling,
                "sample": self.sample,
            }
        )


class Completion(BaseModel):
    """A model's answer, as it is kept in the journal.

    Args:
        text: the answer.
        finish_reason: `stop`, or `length` when max_tokens cut it off, or the server's word.
        tokens_in, tokens_out: as the server counted them (0 when it does not say).
        latency_ms: from sending to the whole answer.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    finish_reason: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    latency_ms: float = 0.0

    @property
    def truncated(self) -> bool:
        """Whether max_tokens cut the answer off."""
        return self.finish_reason == "length"


class Provider(Protocol):
    """Sends requests to one model. Retries, limits and the journal are not its work."""

    async def complete(self, request: Request) -> Completion:
        """One answer; raises PassingError, RequestError or EndpointError."""
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
