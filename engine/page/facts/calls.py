"""Model calls that made a row: what was asked, what was answered, and what it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.page.facts.excerpts import Excerpt, as_json, excerpt


@dataclass(frozen=True)
class Said:
    """A message of a prompt."""

    role: str
    text: Excerpt


@dataclass(frozen=True)
class CallFacts:
    """A model call. What engines of before 0.4 did not record is None."""

    call_id: str
    role: str
    model: str
    prompt: tuple[Said, ...]
    response: Excerpt
    reasoning: Excerpt | None
    tool_calls: Excerpt | None
    finish_reason: str | None
    served_by: str | None
    tokens_in: int
    tokens_out: int
    tokens_cached: int | None
    tokens_reasoning: int | None
    latency_ms: float | None
    cost_usd: float | None


def call_facts(call: Mapping[str, Any]) -> CallFacts:
    """A call from its record in the registry."""
    reasoning, tools = call.get("reasoning"), call.get("tool_calls")
    return CallFacts(
        call_id=call["call_id"],
        role=call["role"] or "",
        model=call["model"] or "",
        prompt=_prompt(call["prompt"] or ""),
        response=excerpt(call["response"] or ""),
        reasoning=excerpt(reasoning) if reasoning else None,
        tool_calls=excerpt(tools) if tools else None,
        finish_reason=call.get("finish_reason"),
        served_by=call.get("served_by"),
        tokens_in=call["tokens_in"] or 0,
        tokens_out=call["tokens_out"] or 0,
        tokens_cached=call.get("tokens_cached"),
        tokens_reasoning=call.get("tokens_reasoning"),
        latency_ms=call.get("latency_ms"),
        cost_usd=call.get("cost_usd"),
    )


def _prompt(text: str) -> tuple[Said, ...]:
    """The messages; a prompt that is not a list of messages is one message."""
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        messages = None
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        return (Said("prompt", excerpt(text)),)
    return tuple(Said(str(each.get("role", "")), excerpt(_content(each))) for each in messages)


def _content(message: Mapping[str, Any]) -> str:
    """A message's text, or its parts; of a picture in it, the start of its address."""
    content = message.get("content")
    more = {name: value for name, value in message.items() if name not in ("role", "content") and value}
    texts = [content] if isinstance(content, str) else []
    for part in content if isinstance(content, list) else ():
        known = isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        texts.append(part["text"] if known else excerpt(part, 200).text)
    return "\n".join([*texts, *([as_json(more)] if more else [])])
