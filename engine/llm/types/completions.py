"""Answers of models, in the form that the journal keeps."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, FiniteFloat

MOST_TOKENS = 2**40
"""More tokens than any answer has. Higher counts from a server are ignored, so that sums of counts fit every column."""

LEAST_LOGPROB = -1e9
"""In place of minus infinity, which JSON cannot express."""


def token_count(value: Any) -> int:
    """A server's count of tokens; 0 (unknown) if it is not an integer, negative or absurdly high."""
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0


class TokenLogprob(BaseModel):
    """A generated token, the natural logarithm of its probability, and the most likely alternatives (token -> logprob).

    Probabilities are the model's own, before temperature and top_p, as OpenAI reports them.
    """

    model_config = ConfigDict(frozen=True)

    token: str
    logprob: FiniteFloat
    top: dict[str, FiniteFloat] = {}


class Completion(BaseModel):
    """A model's answer, as the journal keeps it.

    Args:
        text: the answer.
        finish_reason: `stop`; `length` if max_tokens or another limit cut it off; `tool_calls`. The completion of an error
            can also have `refusal`, `content_filter`, `error` or `unknown`.
        tokens_in, tokens_out: the server's counts (0 if it does not report them). When several samples come in one
            response, the prompt counts for the first.
        latency_ms: from sending the request to the end of the answer.
        logprobs: one entry for each token of the answer, if requested.
        reasoning: what the model thought before it answered, if the server returns it beside the text; None in answers that the
            journal has from before 0.4.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    finish_reason: str = "stop"
    tokens_in: Annotated[int, BeforeValidator(token_count)] = 0
    tokens_out: Annotated[int, BeforeValidator(token_count)] = 0
    latency_ms: FiniteFloat = 0.0
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str | None = None

    @property
    def truncated(self) -> bool:
        """Whether max_tokens or another limit cut the answer off."""
        return self.finish_reason == "length"
