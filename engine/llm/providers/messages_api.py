"""Anthropic's Messages API as JSON: from a request to a body, and from a response to a usable completion or an error.

https://docs.claude.com/en/api/messages
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.llm.providers.capabilities import KnownCapabilities
from engine.llm.providers.response_body import GarbledError, excerpt, from_json
from engine.llm.types.completions import Completion, ToolCall, token_count
from engine.llm.types.errors import RequestError, TransientError
from engine.llm.types.finish_reason import USABLE_AS, ending
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request, texts_of
from engine.llm.types.structured import in_words
from registry.storage.valid_text import INVALID, is_valid, repaired

VERSION = "2023-06-01"
"""The version of the API, sent in a header of every request."""

NO_LOGPROBS = "Anthropic's API returns no log-probabilities, and the step needs them"

_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+);base64,(?P<data>.*)", re.DOTALL)
_CACHED = {"type": "ephemeral"}
_THINKING = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}
"""The blocks with the model's reasoning, and what each has: a signed text, or an encrypted one."""


_NAMES = {"stop": "stop_sequences"}


def body(spec: ModelSpec, request: Request, known: KnownCapabilities) -> dict[str, Any]:
    """The JSON body of a request.

    The system message, which all rows share, is marked for the server's cache of prompts. A model that thinks takes no
    temperature.

    Args:
        spec: the model.
        request: the request.
        known: the features that the model refuses. If it knows no schemas, they are asked for in words.

    Raises:
        RequestError: a message has an image in a form that the API does not take.
    """
    sampling = request.sampling
    thinks = spec.thinking is not None and spec.thinking.get("type") != "disabled"
    messages: Sequence[dict[str, Any]] = request.messages
    schema = request.schema if known.response_format is not False else None
    if request.schema is not None and schema is None:
        messages = in_words(messages, request.schema)
    system = [message["content"] for message in messages if message["role"] == "system"]
    turns = _turns([each for each in messages if each["role"] != "system"], thinks=thinks)
    optional = {
        "temperature": None if thinks else sampling["temperature"],
        "top_p": None if sampling["top_p"] == 1.0 else sampling["top_p"],
        "stop_sequences": list(sampling["stop"]) or None,
        "thinking": spec.thinking,
    }
    asked: dict[str, Any] = {"model": spec.model, "max_tokens": request.max_tokens, "messages": turns}
    refused = [_NAMES.get(name, name) for name in known.left_out]
    asked |= {name: value for name, value in optional.items() if value is not None and name not in refused}
    if system:
        asked["system"] = [{"type": "text", "text": "\n\n".join(map(_text_of, system)), "cache_control": _CACHED}]
    if request.tools:
        asked["tools"] = [_tool(each["function"]) for each in request.tools]
    further = sampling.get("extra_body", {})
    if schema is not None:
        asked["output_config"] = {**further.get("output_config", {}), "format": {"type": "json_schema", "schema": schema}}
    return {**further, **asked}


def left_out(request: Request, known: KnownCapabilities) -> tuple[str, ...]:
    """The parameters that a request should have, and that are not sent because the model refuses them."""
    return tuple(name for name in known.left_out if request.sampling.get(name) not in (None, (), [], 1.0))


def completion(answer: Any, request: Request, latency_ms: float) -> Completion:
    """The answer in a response.

    Raises:
        TransientError: the response is not a message.
        RequestError: the model refused, or its answer is not usable.
    """
    try:
        blocks = answer["content"]
        if not isinstance(blocks, list):
            raise TypeError("its content is not a list")
        used = _used(answer.get("usage"))
        kept = [_thinking_block(block) for block in blocks if block["type"] in _THINKING]
        texts = [block["text"] for block in blocks if block["type"] == "text"]
        thoughts = [block.get("thinking") or "" for block in blocks if block["type"] == "thinking"]
        tools = [_tool_call(block) for block in blocks if block["type"] == "tool_use"]
        text, reason = "".join(texts), answer.get("stop_reason")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TransientError(f"the response is not a message ({excerpt(f'{type(error).__name__}: {error}', 200)})") from None
    made = Completion(
        text="",
        finish_reason="unknown",
        latency_ms=round(latency_ms, 3),
        served_by=repaired(str(answer.get("model") or ""))[:200],
    ).model_copy(update=used)
    detail = f"stop_reason {excerpt(str(reason), 60)!r}"
    end = ending(reason)
    if reason == "refusal" or end == "filtered":
        raise RequestError(
            f"the model refused: {excerpt(text) or detail}", made.model_copy(update={"finish_reason": "refusal"})
        )
    if end not in USABLE_AS or end == "unsaid":
        why = "for an unknown reason" if end in ("unknown", "unsaid") else "because it failed"
        raise RequestError(f"the server ended its answer {why} ({detail}), so the answer may be incomplete", made)
    if end == "tools" and not (request.tools or request.sampling.get("extra_body", {}).get("tools")):
        raise RequestError(f"the model called a tool instead of answering, although none was offered ({detail})", made)
    if not all(is_valid(each) for each in (text, *(f"{call.id}{call.name}{call.arguments}" for call in tools))):
        raise RequestError(f"the answer {INVALID}", made)
    reasoning = "\n".join(repaired(thought) for thought in thoughts if isinstance(thought, str)) or None
    found = {"text": text, "finish_reason": USABLE_AS[end], "reasoning": reasoning, "tool_calls": tuple(tools)}
    return made.model_copy(update=found | {"thinking_blocks": tuple(filter(None, kept))})


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    about = {key: function[key] for key in ("description", "strict") if key in function}
    return {"name": function["name"], **about, "input_schema": function.get("parameters", {"type": "object"})}


def _used(usage: Any) -> dict[str, int]:
    """The counts of a response, 0 where they are not counts. `input_tokens` are those that the cache did not have."""
    known = usage if isinstance(usage, dict) else {}
    fresh, written, cached, out = (
        token_count(known.get(name))
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    )
    details = known.get("output_tokens_details")
    thought = token_count(details.get("thinking_tokens")) if isinstance(details, dict) else 0
    counts = {
        "tokens_reasoning": min(thought, out),
        "tokens_in": fresh + written + cached,
        "tokens_cached": cached,
        "tokens_written": written,
        "tokens_out": out,
    }
    return counts if fresh + written + cached and out else {}


def _tool_call(block: Mapping[str, Any]) -> ToolCall:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False, allow_nan=False)
    return ToolCall(id=str(block.get("id") or ""), name=block["name"], arguments=arguments)


def _thinking_block(block: Mapping[str, Any]) -> dict[str, str] | None:
    """A block that can be returned to the API; None if it lacks what the API checks."""
    kept = {name: block.get(name) for name in _THINKING[block["type"]]}
    complete = all(isinstance(text, str) and is_valid(text) for text in kept.values()) and block.get("signature", "signed")
    return {"type": block["type"], **{name: str(text) for name, text in kept.items()}} if complete else None


def _turns(messages: Sequence[Mapping[str, Any]], *, thinks: bool) -> list[dict[str, Any]]:
    """The conversation in the API's form: results of tools are the user's.

    The API wants the reasoning that led to a tool call back while the model is still at it, and has no use for that of earlier
    turns.
    """
    asked = max((place for place, each in enumerate(messages) if each["role"] == "user"), default=-1)
    turns: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        if message["role"] == "tool":
            result = {
                "type": "tool_result",
                "tool_use_id": message.get("tool_call_id", ""),
                "content": _content(message["content"]),
            }
            if place and messages[place - 1]["role"] == "tool":
                turns[-1]["content"].append(result)  # the results of calls that were made together belong together
            else:
                turns.append({"role": "user", "content": [result]})
        elif calls := message.get("tool_calls"):
            thoughts = message.get("thinking_blocks", []) if thinks and place > asked else []
            texts = [{"type": "text", "text": text} for text in texts_of(message["content"]) if text.strip()]
            turns.append({"role": message["role"], "content": [*thoughts, *texts, *map(_tool_use, calls)]})
        else:
            turns.append({"role": message["role"], "content": _content(message["content"])})
    return turns


def _tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        given = from_json(function["arguments"] or "{}")
    except GarbledError:
        given = None
    if not isinstance(given, dict):
        raise RequestError(
            f"the arguments of a call of {function['name']} are not a JSON object: {excerpt(function['arguments'], 100)}"
        )
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": given}


def _text_of(content: str | Sequence[Mapping[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _content(content: str | Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return dict(part)
    url = part["image_url"]["url"]
    if found := _DATA_URL.fullmatch(url):
        source = {"type": "base64", "media_type": found["type"], "data": found["data"]}
    elif url.startswith(("http://", "https://")):
        source = {"type": "url", "url": url}
    else:
        raise RequestError("an image is neither an http(s) URL nor base64 data")
    return {"type": "image", "source": source}
