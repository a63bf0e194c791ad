"""What a request may take at most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from engine.llm.types.structured import in_words


@dataclass(frozen=True)
class Estimate:
    """What one HTTP request may take at most. Requests of equal `key` go out one after the other."""

    key: str
    tokens: int = 0
    cost: float = 0.0


BYTES_PER_TOKEN = 4
"""Of usual text; a token bucket that reckons with the bound would let far too little out."""


def token_bound(request: Request) -> tuple[int, int]:
    """At most so many prompt and completion tokens: a token is at least one byte; a message's frame is under 16.

    What the server's chat template adds to the whole is not in it: see Budget.
    """
    messages = in_words(request.messages, request.schema) if request.schema else request.messages
    prompt = sum(len(message["content"].encode()) + 16 for message in messages)
    return prompt, int(request.sampling["max_tokens"])


def estimate(spec: ModelSpec, requests: Sequence[Request]) -> Estimate:
    """What requests that differ in nothing but `sample`, sent as one, may take at most."""
    tokens_in, tokens_out = token_bound(requests[0])
    tokens_in += len(json.dumps(spec.extra_body)) if spec.extra_body else 0
    tokens_out *= len(requests)
    return Estimate(requests[0].key, tokens_in // BYTES_PER_TOKEN + tokens_out, spec.cost(tokens_in, tokens_out))
