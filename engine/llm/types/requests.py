"""A request to a model, and the messages it consists of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from registry.storage.checked_json import json_digest


@dataclass(frozen=True)
class Request:
    """A request for one answer of a model. Every field affects the answer, so every field is part of the key.

    Attributes:
        endpoint: base URL, or the name of an in-process provider.
        model: model name; for an in-process model, the identity of its weights.
        messages: ({"role": ..., "content": ...}, ...).
        sampling: temperature, top_p, max_tokens, stop, seed; `logprobs` (how many alternatives), if requested.
        sample: 0 for the first answer to this prompt, 1 for the second, ...
        schema: a JSON Schema that the answer should follow. The provider decides how to ask for it (`response_format`, or
            in the prompt), and the key does not depend on that: keys stay valid when a server gains or loses support.
    """

    endpoint: str
    model: str
    messages: tuple[dict[str, str], ...]
    sampling: dict[str, Any]
    sample: int = 0
    schema: dict[str, Any] | None = None

    @cached_property
    def key(self) -> str:
        """SHA-256 of the request's canonical JSON: its key in the journal, and the `call_id` in SQL."""
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
        """The seed to send. Samples of one prompt must differ, so each has another."""
        seed = self.sampling["seed"]
        return None if seed is None else seed + self.sample


def as_messages(prompt: str | Iterable[Mapping[str, Any] | BaseModel]) -> tuple[dict[str, str], ...]:
    """Messages from a text (one user message) or from records or dicts with role and content."""
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    messages = [message.model_dump() if isinstance(message, BaseModel) else dict(message) for message in prompt]
    return tuple({"role": str(message["role"]), "content": str(message["content"])} for message in messages)
