"""Model calls that made a row: prompts, answers, tokens, price and time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CallFacts:
    """A model call. Fields that engines before 0.4 did not record are None.

    Args:
        prompt: the messages; a text if the record is not a list of messages.
        tool_calls: as recorded.
    """

    call_id: str
    role: str
    model: str
    prompt: Any
    response: str
    reasoning: str | None
    tool_calls: Any
    finish_reason: str | None
    served_by: str | None
    tokens_in: int
    tokens_out: int
    tokens_cached: int | None
    tokens_reasoning: int | None
    latency_ms: float | None
    cost_usd: float | None

    @property
    def is_short(self) -> bool:
        """Whether its prompt can be read at a glance."""
        texts = [str(turn.get("content")) for turn in self.prompt] if isinstance(self.prompt, list) else [str(self.prompt)]
        return len(texts) <= 2 and sum(map(len, texts)) < 400


def call_facts(call: Mapping[str, Any]) -> CallFacts:
    """A call from its record in the registry."""
    return CallFacts(
        call_id=call["call_id"],
        role=call["role"] or "",
        model=call["model"] or "",
        prompt=_messages(call["prompt"] or ""),
        response=call["response"] or "",
        reasoning=call.get("reasoning"),
        tool_calls=_parsed(call.get("tool_calls")),
        finish_reason=call.get("finish_reason"),
        served_by=call.get("served_by"),
        tokens_in=call["tokens_in"] or 0,
        tokens_out=call["tokens_out"] or 0,
        tokens_cached=call.get("tokens_cached"),
        tokens_reasoning=call.get("tokens_reasoning"),
        latency_ms=call.get("latency_ms"),
        cost_usd=call.get("cost_usd"),
    )


def _messages(text: str) -> Any:
    found = _parsed(text)
    return found if isinstance(found, list) and all(isinstance(each, dict) for each in found) else text


def _parsed(text: str | None) -> Any:
    """The value of a JSON text; any other text as it is."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text
