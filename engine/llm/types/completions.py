"""Answers of models, in the form that the journal keeps."""

from __future__ import annotations

import re
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


class ToolCall(BaseModel):
    """A call of a tool that the model asks for.

    Args:
        id: the server's name for the call; empty if it gives none.
        name: the tool's name.
        arguments: the text that the model wrote: JSON, if the model made no mistake.
    """

    model_config = ConfigDict(frozen=True)

    id: str = ""
    name: str
    arguments: str = ""


class Completion(BaseModel):
    """A model's answer, as the journal keeps it.

    Args:
        text: the answer, without the model's reasoning.
        finish_reason: `stop`; `length` if max_tokens or another limit cut it off; `tool_calls`. The completion of an error
            can also have `refusal`, `content_filter`, `error` or `unknown`.
        tokens_in, tokens_out: the server's counts (0 if it does not report them), with all tokens that it bills. When several
            samples come in one response, the prompt counts for the first.
        tokens_cached: how many of `tokens_in` the server had in its cache of prompts.
        tokens_written: how many of `tokens_in` the server put into its cache, where that has a price of its own.
        tokens_reasoning: how many of `tokens_out` are reasoning; 0 if the server does not say.
        latency_ms: from sending the request to the end of the answer.
        logprobs: one entry for each token of the answer, if requested.
        reasoning: what the model thought before it answered, if the server returns it, under whatever name or inside the text
            between `<think>` and `</think>`.
        tool_calls: the tools that the model asks for.
        thinking_blocks: Anthropic's reasoning as it came, signed or encrypted. A conversation that continues after a tool call
            has to return it.
        left_out: sampling parameters that the server refuses, so that they were not sent.
        served_by: the server's name of the model, and the fingerprint of its configuration.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    finish_reason: str = "stop"
    tokens_in: Annotated[int, BeforeValidator(token_count)] = 0
    tokens_out: Annotated[int, BeforeValidator(token_count)] = 0
    latency_ms: FiniteFloat = 0.0
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str | None = None
    tokens_cached: Annotated[int, BeforeValidator(token_count)] = 0
    tokens_written: Annotated[int, BeforeValidator(token_count)] = 0
    tokens_reasoning: Annotated[int, BeforeValidator(token_count)] = 0
    tool_calls: tuple[ToolCall, ...] = ()
    thinking_blocks: tuple[dict[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    served_by: str = ""

    @property
    def truncated(self) -> bool:
        """Whether max_tokens or another limit cut the answer off."""
        return self.finish_reason == "length"

    @property
    def reasons(self) -> bool:
        """Whether the model thought before it answered."""
        return bool(self.reasoning or self.tokens_reasoning or self.thinking_blocks)

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing and calls no tool: asking again may return an answer."""
        return not self.text.strip() and not self.tool_calls

    @property
    def words(self) -> str:
        """All that the server wrote, to look for something in it."""
        calls = (f"{call.id} {call.name} {call.arguments}" for call in self.tool_calls)
        blocks = (text for block in self.thinking_blocks for name, text in block.items() if name != "thinking")
        return " ".join((self.text, self.reasoning or "", self.served_by, *calls, *blocks))

    def message(self) -> dict[str, Any]:
        """The answer as a turn of a conversation that continues, with its tool calls and what the server wants back of its
        reasoning; see `ChatModel.chat`.
        """
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.tool_calls
        ]
        further = {"tool_calls": calls, "thinking_blocks": [dict(block) for block in self.thinking_blocks]}
        return {"role": "assistant", "content": self.text, **{name: value for name, value in further.items() if value}}


_OPENED = re.compile(r"\s*<think(?:ing)?>(.*?)(?:</think(?:ing)?>|\Z)", re.DOTALL)
_CLOSED = re.compile(r"\A(.*?)^[ \t]*</think(?:ing)?>[ \t]*$", re.DOTALL | re.MULTILINE)
"""Chat templates of some models open the reasoning themselves, so that the text only closes it."""


def without_thinking(text: str) -> tuple[str, str | None]:
    """A text without the reasoning at its beginning, and the reasoning; None if there is none.

    Reasoning that is not closed is all of the text: nothing of it is an answer.
    """
    if "<think" not in text and "</think" not in text:
        return text, None
    found = _OPENED.match(text) or _CLOSED.match(text)
    return (text[found.end() :].lstrip("\n"), found[1].strip()) if found else (text, None)
