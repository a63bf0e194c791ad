"""OpenAI's chat completions as JSON: from requests to a body, and from a response to usable completions or an error."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from engine.llm.providers.capabilities import KnownCapabilities
from engine.llm.providers.failures import status_of
from engine.llm.providers.response_body import excerpt
from engine.llm.types.completions import LEAST_LOGPROB, Completion, TokenLogprob, ToolCall, token_count, without_thinking
from engine.llm.types.errors import EndpointError, ModelError, RequestError, TransientError
from engine.llm.types.finish_reason import USABLE_AS, End, ending
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from engine.llm.types.structured import in_words
from registry.storage.valid_text import INVALID, is_valid, repaired

MOST_AT_ONCE = 64
"""The maximum number of answers in one request that common servers accept."""

_ROUNDING = 1e-3
"""A logarithm of a probability may exceed 0 by this much."""

_LONGEST_NAME = 200

_RETRIED = {408, 409, 425, 429}


class Reply(NamedTuple):
    """A server's answers to requests for one prompt.

    Attributes:
        completions: the usable ones, at most one for each request: complete, or cut off by a limit.
        choices: the number of choices in the response.
        says_why: whether the server reports why its answers ended.
    """

    completions: list[Completion]
    choices: int
    says_why: bool


def body(spec: ModelSpec, requests: Sequence[Request], capabilities: KnownCapabilities) -> dict[str, Any]:
    """The JSON body for requests that differ only in `sample`, with features that the server supports."""
    first = requests[0]
    sampling = first.sampling
    messages = [{name: value for name, value in each.items() if name != "thinking_blocks"} for each in first.messages]
    asked: dict[str, Any] = {"model": spec.model, "messages": messages}
    longest = "max_completion_tokens" if capabilities.max_completion_tokens else "max_tokens"
    asked[longest] = first.max_tokens
    asked |= {name: value for name, value in _optional(first).items() if name not in capabilities.left_out}
    if len(requests) > 1:
        asked["n"] = len(requests)
    if "logprobs" in sampling:
        asked |= {"logprobs": True, "top_logprobs": sampling["logprobs"]}
    if first.tools:
        asked["tools"] = list(first.tools)
    if first.schema is not None and capabilities.response_format is False:
        asked["messages"] = in_words(messages, first.schema)
    elif first.schema is not None:
        schema = {"name": str(first.schema["title"]), "schema": first.schema, "strict": True}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    return {**sampling.get("extra_body", {}), **asked}


def left_out(request: Request, capabilities: KnownCapabilities) -> tuple[str, ...]:
    """The parameters that a request should have, and that are not sent because the server refuses them."""
    return tuple(name for name in _optional(request) if name in capabilities.left_out)


def _optional(request: Request) -> dict[str, Any]:
    """The sampling parameters of a request that differ from every server's default."""
    sampling = request.sampling
    found = {"temperature": sampling["temperature"], "seed": request.seed, "stop": list(sampling["stop"]) or None}
    # At temperature 0 it changes nothing, and some servers refuse it then.
    found["top_p"] = None if sampling["top_p"] == 1.0 or sampling["temperature"] == 0 else sampling["top_p"]
    return {name: value for name, value in found.items() if value is not None}


def completions(answer: Any, requests: Sequence[Request], latency_ms: float) -> Reply:
    """The answers in a response. Unusable choices are left out if at least one is usable.

    Raises:
        TransientError: the response is not a chat completion, or the server failed while answering.
        RequestError: the model refused, a filter stopped it, or its answer is not usable.
        EndpointError: log-probabilities were requested, and there are none.
    """
    try:
        choices = answer["choices"]
        if not isinstance(choices, list) or not choices:
            raise ValueError("it has no choices")
        paid = _Paid(answer, latency_ms)
        usable, failed = [], []
        for choice in choices[: len(requests)]:
            try:
                usable.append(_read(choice, requests[0], paid))
            except ModelError as error:
                failed.append(error)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise TransientError(
            f"the response is not a chat completion ({excerpt(f'{type(error).__name__}: {error}', 200)})"
        ) from None
    if not usable:
        raise failed[0]
    if not paid.tokens_out and any(each.text for each in usable):
        paid.tokens_in = 0  # a text cannot have zero tokens: the server does not count
    texts = [f"{each.reasoning or ''}{each.text}" for each in usable]
    shares, thought = _shares(paid.tokens_out, texts), _shares(paid.tokens_reasoning, [each.reasoning or "" for each in usable])
    for place, each in enumerate(usable):
        counts = {"tokens_out": shares[place], "tokens_reasoning": min(thought[place], shares[place])}
        before = {"tokens_in": 0, "tokens_cached": 0} if place else {"tokens_in": paid.tokens_in}
        usable[place] = each.model_copy(update=counts | before)
    return Reply(usable, len(choices), any(_says_why(choice) for choice in choices))


def used(answer: Any) -> Completion:
    """What a response used, as an answer without text."""
    return _Paid(answer if isinstance(answer, dict) else {}, 0.0).nothing("unknown")


def unused(reply: Reply) -> Completion:
    """A placeholder for answers that are discarded but were paid for."""
    names = ("tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning")
    counts = {name: sum(getattr(each, name) for each in reply.completions) for name in names}
    return Completion(text="", finish_reason="unknown").model_copy(update=counts)


class _Paid:
    """What a response used, by the server's own count; impossible counts are treated as not reported."""

    def __init__(self, answer: Any, latency_ms: float) -> None:
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
        known = all(type(count) is int and token_count(count) == count for count in counts)
        self.tokens_in, self.tokens_out = (int(counts[0] or 0), int(counts[1] or 0)) if known else (0, 0)
        inside = _detail(usage, "prompt_tokens_details", "cached_tokens") or token_count(usage.get("prompt_cache_hit_tokens"))
        self.tokens_cached = min(inside, self.tokens_in)
        thought = _detail(usage, "completion_tokens_details", "reasoning_tokens")
        thought = thought or token_count(usage.get("reasoning_tokens"))
        # Some servers bill reasoning as output, but count it only in the total; Gemini's does not even name it.
        beyond = token_count(usage.get("total_tokens")) - self.tokens_in - self.tokens_out
        if known and beyond > 0 and thought in (0, beyond):
            thought = beyond
            self.tokens_out += beyond
        self.tokens_reasoning = min(thought, self.tokens_out)
        self.latency_ms = round(latency_ms, 3)
        self.served_by = " ".join(
            repaired(name)[:_LONGEST_NAME] for name in (answer.get("model"), answer.get("system_fingerprint")) if _is_name(name)
        )

    def nothing(self, finish_reason: str) -> Completion:
        """An answer without text that carries the usage of a discarded one."""
        return self.answer("", finish_reason)

    def answer(
        self,
        text: str,
        finish_reason: str,
        logprobs: tuple[TokenLogprob, ...] | None = None,
        reasoning: str | None = None,
        tool_calls: tuple[ToolCall, ...] = (),
    ) -> Completion:
        """An answer that carries the usage of the whole response."""
        return Completion(
            text=text,
            finish_reason=finish_reason,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            latency_ms=self.latency_ms,
            logprobs=logprobs,
            reasoning=reasoning,
            tokens_cached=self.tokens_cached,
            tokens_reasoning=self.tokens_reasoning,
            tool_calls=tool_calls,
            served_by=self.served_by,
        )


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    inside = usage.get(group)
    return token_count(inside.get(name)) if isinstance(inside, dict) else 0


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _read(choice: Any, request: Request, paid: _Paid) -> Completion:
    """The completion of a usable choice; see completions."""
    error, reason = choice.get("error"), choice.get("finish_reason")
    detail = f"finish_reason {excerpt(str(reason), 60)!r}"
    if error:
        _raise_failed(error, detail, paid)
    if refusal := choice["message"].get("refusal"):
        raise RequestError(f"the model refused: {excerpt(str(refusal))}", paid.nothing("refusal"))
    end = ending(reason)
    if end == "whole" and (beside := _ended_otherwise(choice)) is not None:
        end, detail = beside
    if end == "failed":
        raise TransientError(f"the server failed while answering ({detail})", completion=paid.nothing("error"))
    if end == "filtered":
        raise RequestError(f"the server's content filter stopped the answer ({detail})", paid.nothing("content_filter"))
    if end == "unknown":
        raise RequestError(
            f"the server ended its answer for an unknown reason ({detail}), so the answer may be incomplete",
            paid.nothing("unknown"),
        )
    if end == "tools" and not _offers_tools(request):
        raise RequestError(
            f"the model called a tool instead of answering, although none was offered ({detail})", paid.nothing("unknown")
        )
    text, thought = without_thinking(_text(choice["message"]))
    if not is_valid(text):
        raise RequestError(f"the answer {INVALID}", paid.nothing("unknown"))
    if end == "unsaid":
        # Small servers omit it. An answer that used all its tokens was very likely cut off.
        most = request.max_tokens if "max_tokens" in request.sampling else math.inf  # of an answer in a batch it is not known
        end = "cut off" if paid.tokens_out and paid.tokens_out >= most else "whole"
    logprobs = _logprobs(choice, paid) if "logprobs" in request.sampling else None
    reasoning = "\n".join(filter(None, (_reasoning(choice["message"]), thought and repaired(thought)))) or None
    # Some servers say `stop` of an answer that calls tools.
    calls = _tool_calls(choice["message"], paid) if end == "tools" or (end == "whole" and request.tools) else ()
    return paid.answer(text, USABLE_AS["tools" if calls else end], logprobs, reasoning, calls)


def _ended_otherwise(choice: Any) -> tuple[End, str] | None:
    """How an answer really ended, with the source, if details in the choice contradict a router's `stop`."""
    native = choice.get("native_finish_reason")
    if (end := ending(native)) in ("cut off", "filtered", "failed"):
        return end, f"native_finish_reason {excerpt(str(native), 60)!r}"
    filters = choice.get("content_filter_results")
    found = [name for name, each in filters.items() if isinstance(each, dict)] if isinstance(filters, dict) else []
    triggered = [name for name in found if filters[name].get("filtered") is True]
    return ("filtered", f"content_filter_results: {excerpt(str(triggered[0]), 60)}") if triggered else None


def _raise_failed(error: Any, detail: str, paid: _Paid) -> None:
    """Raise the error inside a choice: the server failed while answering."""
    status = status_of(error) if isinstance(error, dict) else 502
    words = error.get("message") if isinstance(error, dict) else error
    detail = f"the server failed while answering ({detail}): {status}: {excerpt(str(words or error))}"
    if status in _RETRIED or status >= 500:
        raise TransientError(detail, throttled=status == 429, completion=paid.nothing("error"))
    raise RequestError(detail, paid.nothing("error"))


def _offers_tools(request: Request) -> bool:
    further = request.sampling.get("extra_body", {})
    return bool(request.tools or further.get("tools") or further.get("functions"))


def _says_why(choice: Any) -> bool:
    return isinstance(choice, dict) and ending(choice.get("finish_reason")) != "unsaid"


def _text(message: Mapping[str, Any]) -> str:
    text = message.get("content") or ""
    if isinstance(text, list):  # content parts
        text = "".join(part.get("text") or "" for part in text if part.get("type") in ("text", "output_text"))
    if not isinstance(text, str):
        raise TypeError("its content is not text")
    return text


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """The model's reasoning, where the server returns it beside the answer. It is not part of the answer, so the answer stays
    usable even if the reasoning is not text.
    """
    for name in ("reasoning_content", "reasoning", "thinking"):
        given = message.get(name)
        if isinstance(given, str) and given.strip():
            return repaired(given)
    # Parts of the content (Mistral, Anthropic), or beside it (OpenRouter, LiteLLM).
    for name in ("content", "reasoning_details", "thinking_blocks"):
        parts = message.get(name)
        found = [_thought(part) for part in (parts if isinstance(parts, list) else ()) if _is_thought(part)]
        if thoughts := "\n".join(filter(None, found)):
            return thoughts
    return None


def _is_thought(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind.partition(".")[0] in ("thinking", "reasoning")


def _thought(part: Mapping[str, Any]) -> str:
    inside = part.get("thinking") or part.get("text") or part.get("summary") or ""
    if isinstance(inside, list):
        inside = "".join(str(each.get("text") or "") for each in inside if isinstance(each, dict))
    return repaired(inside) if isinstance(inside, str) else ""


def _tool_calls(message: Mapping[str, Any], paid: _Paid) -> tuple[ToolCall, ...]:
    given = message.get("tool_calls")
    if not given:  # the form of earlier servers, or a text after all
        given = [{"function": message["function_call"]}] if message.get("function_call") else []
    try:
        found = tuple(
            ToolCall(
                id=str(each.get("id") or ""),
                name=each["function"]["name"],
                arguments=_arguments(each["function"].get("arguments")),
            )
            for each in given
        )
        if not all(is_valid(text) for call in found for text in (call.id, call.name, call.arguments)):
            raise ValueError(f"a tool call {INVALID}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        detail = f"its tool calls cannot be read ({excerpt(f'{type(error).__name__}: {error}', 200)})"
        raise RequestError(detail, paid.nothing("unknown")) from None
    return found


def _arguments(given: Any) -> str:
    return given if isinstance(given, str) else json.dumps(given if given is not None else {}, ensure_ascii=False)


def _shares(count: int, texts: Sequence[str]) -> list[int]:
    """Each choice's share of the tokens, by length. Servers count all choices together; the shares add up to the count."""
    ends = [0, *itertools.accumulate(len(text) + 1 for text in texts)]
    return [end * count // ends[-1] - start * count // ends[-1] for start, end in itertools.pairwise(ends)]


def _logprobs(choice: Any, paid: _Paid) -> tuple[TokenLogprob, ...]:
    given = choice.get("logprobs")
    content = given.get("content") if isinstance(given, dict) else None
    if content is None:
        raise EndpointError("the server returns no log-probabilities, and the step needs them")
    try:
        return tuple(_token(each) for each in content)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        detail = f"its log-probabilities cannot be read ({excerpt(f'{type(error).__name__}: {error}', 200)})"
        raise RequestError(detail, paid.nothing("unknown")) from None


def _token(each: Any) -> TokenLogprob:
    top = {str(one["token"]): one["logprob"] for one in each.get("top_logprobs") or ()}
    known = {token: _logprob(value) for token, value in top.items() if not _is_nan(value)}
    if not all(is_valid(token) for token in (str(each["token"]), *known)):
        raise ValueError(f"a token {INVALID}")
    return TokenLogprob(token=each["token"], logprob=_logprob(each["logprob"]), top=known)


def _logprob(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or _is_nan(value) or value > _ROUNDING:
        raise ValueError(f"{value!r} is not the logarithm of a probability")
    return max(float(value), LEAST_LOGPROB)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
