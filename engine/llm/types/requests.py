"""What a model client takes and gives, and how it fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from registry.storage.objects import json_digest


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


def as_messages(prompt: str | Iterable[Mapping[str, Any] | BaseModel]) -> tuple[dict[str, str], ...]:
    """A text (one user message) or a list of messages (records or dicts with role and content)."""
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    turns = [turn.model_dump() if isinstance(turn, BaseModel) else dict(turn) for turn in prompt]
    return tuple({"role": str(turn["role"]), "content": str(turn["content"])} for turn in turns)
