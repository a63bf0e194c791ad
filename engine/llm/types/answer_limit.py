"""The `max_tokens` of an answer, which neither the server nor the journal reports."""

from __future__ import annotations

from engine.llm.types.completions import Completion
from engine.llm.types.model_spec import REASONING_MAX_TOKENS, ModelSpec


def limit_of(spec: ModelSpec, answer: Completion) -> int:
    """The `max_tokens` of the request whose answer was cut off.

    The journal does not keep it. Where the pipeline leaves it open, it follows from how long the answer became.
    """
    if not spec.leaves_length_open or not (answer.reasons or answer.tokens_out > spec.max_tokens):
        return spec.max_tokens
    limit = spec.max_tokens if answer.tokens_out else REASONING_MAX_TOKENS
    while limit < answer.tokens_out:  # a server that takes fewer is asked for half as many
        limit *= 2
    return min(limit, REASONING_MAX_TOKENS)
