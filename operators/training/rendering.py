"""Conversations in the form that a chat template takes, and what it leaves out: a model must not be trained on less than its
rows say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from operators.formats.turns import arguments_object

Turn = Mapping[str, Any]
Render = Callable[[Sequence[Turn]], str]

_BEYOND_TEXT = ("tool_calls", "thinking", "name")
_NAMES_OF_THINKING = ("thinking", "reasoning_content", "reasoning")


def thinking_name(template: str) -> str:
    """The name by which a chat template takes the reasoning of a turn; `thinking` if it takes none."""
    for name in _NAMES_OF_THINKING:
        if re.search(rf"""(\.|\[\s*['"]|get\(\s*['"]){name}\b""", template):
            return name
    return "thinking"


def presented(turns: Sequence[Turn], thinking: str, *, objects: bool) -> list[dict[str, Any]]:
    """Turns as a chat template takes them.

    Args:
        turns: the turns, with the fields of `Message`, without nulls.
        thinking: the template's name for it.
        objects: give the arguments of calls as objects, as TRL and most templates want them, or as their JSON text.
    """
    made = []
    for turn in turns:
        changed = {thinking if name == "thinking" else name: value for name, value in turn.items()}
        if objects and turn.get("tool_calls"):
            changed["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": arguments_object(call["function"]["arguments"])}}
                for call in turn["tool_calls"]
            ]
        made.append(changed)
    return made


def left_out(prompt: Sequence[Turn], completion: Sequence[Turn], render: Render, tools: Sequence[Any] = ()) -> str:
    """What a template leaves out of a conversation, or writes otherwise than the row has it; empty if nothing.

    Templates may leave out the thinking of earlier turns, so only that of the completion counts. The names of tools follow from
    their calls.
    """
    turns = [*prompt, *completion]
    if not tools and not any(turn.get(field) for turn in turns for field in _BEYOND_TEXT):
        return ""
    text = render(turns)
    for tool in tools:
        name = tool.get("function", tool).get("name")
        if isinstance(name, str) and name not in text:
            return "tools"
    for turn in turns:
        for call in turn.get("tool_calls") or ():
            function = call["function"]
            if function["name"] not in text:
                return "tool_calls"
            if len(function["arguments"]) > 2 and json.dumps(function["arguments"]) in text:
                return "the form of tool_calls (it writes their arguments as a quoted text)"
            given = arguments_object(function["arguments"])
            if isinstance(given, dict) and str(given) != json.dumps(given) and str(given) in text:
                return "the form of tool_calls (it writes their arguments as Python, not as JSON)"
        if turn["role"] != "tool" and turn.get("name") and turn["name"] not in text:
            return "name"
    if any(turn.get("thinking") and turn["thinking"].strip() not in text for turn in completion):
        return "thinking"
    return ""
