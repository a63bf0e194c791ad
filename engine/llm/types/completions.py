"""Answers of models, as they are kept in the journal."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, FiniteFloat

MOST_TOKENS = 2**40
"""More tokens than any answer has: a server that counts more is not believed, and sums of such counts fit every column."""

LEAST_LOGPROB = -1e9
"""Stands for minus infinity, which JSON does not have."""


def token_count(value: Any) -> int:
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
    tokens_in: Annotated[int, BeforeValidator(token_count)] = 0
    tokens_out: Annotated[int, BeforeValidator(token_count)] = 0
    latency_ms: FiniteFloat = 0.0
    logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def truncated(self) -> bool:
        """Whether max_tokens, or another limit, cut the answer off."""
        return self.finish_reason == "length"
