"""Upper estimates of the tokens that a request uses, made before it is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request, beyond_text, images_in, texts_of
from engine.llm.types.structured import in_words


@dataclass(frozen=True)
class Estimate:
    """What one HTTP request may use. Requests with the same `key` are sent one after the other.

    Args:
        key: the request's key.
        tokens: the tokens of prompt and answer, for the token bucket: the prompt is estimated, the answer is at its maximum.
        cost: upper bound in US dollars.
    """

    key: str
    tokens: int = 0
    cost: float = 0.0


BYTES_PER_TOKEN = 4
"""In ordinary text. A token bucket that used the upper bound (a token for each byte) would admit far too little."""


TOKENS_PER_IMAGE = 50_000
"""More than common models count for one image, whatever its size (gpt-4o-mini: 48,169 for the largest)."""


TOKENS_FOR_TOOLS = 1000
"""More than chat templates and services add to a prompt with tools, to explain how they are called (Claude: 804 at most)."""


def token_bound(request: Request) -> tuple[int, int]:
    """Upper bounds for the prompt and completion tokens: a token is at least one byte; a message's frame is under 16.

    Does not include what the server's chat template adds to the whole conversation: see Budget.
    """
    messages = in_words(request.messages, request.schema) if request.schema else request.messages
    prompt = 0
    for message in messages:
        content = message["content"]
        prompt += 16 + sum(len(text.encode()) for text in texts_of(content)) + TOKENS_PER_IMAGE * len(images_in(content))
        if further := beyond_text(message):
            prompt += len(json.dumps(further, ensure_ascii=False).encode())
    if request.tools:
        prompt += TOKENS_FOR_TOOLS + len(json.dumps(request.tools, ensure_ascii=False).encode())
    return prompt, request.max_tokens


def estimate(spec: ModelSpec, requests: Sequence[Request]) -> Estimate:
    """The estimate for requests that differ only in `sample` and are sent as one."""
    tokens_in, tokens_out = token_bound(requests[0])
    tokens_in += len(json.dumps(spec.extra_body)) if spec.extra_body else 0
    tokens_out *= len(requests)
    return Estimate(requests[0].key, tokens_in // BYTES_PER_TOKEN + tokens_out, spec.most(tokens_in, tokens_out))
