"""Finds what a chat template leaves out of a conversation: a model must not be trained on less than its rows say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Turn = Mapping[str, Any]
Render = Callable[[Sequence[Turn]], str]

_BEYOND_TEXT = ("tool_calls", "thinking", "name")


def left_out(prompt: Sequence[Turn], completion: Sequence[Turn], render: Render) -> str:
    """What a template leaves out of a conversation, or writes otherwise than the row has it; empty if nothing.

    Templates may leave out the thinking of earlier turns, so only that of the completion counts. The names of tools follow from
    their calls.
    """
    turns = [*prompt, *completion]
    if not any(turn.get(field) for turn in turns for field in _BEYOND_TEXT):
        return ""
    text = render(turns)
    for turn in turns:
        for call in turn.get("tool_calls") or ():
            function = call["function"]
            if function["name"] not in text:
                return "tool_calls"
            if len(function["arguments"]) > 2 and json.dumps(function["arguments"]) in text:
                return "the form of tool_calls (it writes their arguments as a quoted text)"
        if turn["role"] != "tool" and turn.get("name") and turn["name"] not in text:
            return "name"
    if any(turn.get("thinking") and turn["thinking"].strip() not in text for turn in completion):
        return "thinking"
    return ""
