"""OpenAI's formats for fine-tuning: `messages`, and for preferences `input`, `preferred_output` and `non_preferred_output`.

`weight: 0` marks turns of the assistant that are not learned. Without weights, the last turn is what is learned; written rows
have weights if something else is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.operator import Place, Reject, RowFormat
from operators.formats.rows import MEDIA, At, LeftOut, Row, refuse_media, report_rest
from operators.formats.turns import Turn, are_messages, check_turns, read_turns, split_last, tools_at, written
from operators.records import Message, PreferencePair, SFTExample, read_tools

_MESSAGES = At.field("messages")


def _fits(row: Row) -> bool:
    return are_messages(row.get("messages"))


def _read(row: Row, left_out: LeftOut) -> dict[str, Any]:
    refuse_media(row)
    turns = read_turns(row["messages"], _MESSAGES, left_out)
    report_rest(row, ("messages", "tools"), left_out)
    tools = tools_at(row.get("tools"), At.field("tools"))
    weights = [message.get("weight") for message in row["messages"]]
    if any(weight is not None for weight in weights):
        return _weighted(turns, weights, left_out) | tools
    prompt, completion = split_last(turns, _MESSAGES)
    return {"prompt": prompt, "completion": completion} | tools


def _weighted(turns: list[Turn], weights: list[Any], left_out: LeftOut) -> dict[str, Any]:
    """The completion: all turns from the first one of the assistant after its last turn with weight 0."""
    split_last(turns, _MESSAGES)
    for place, weight in enumerate(weights):
        if weight not in (None, 0, 1):
            raise Reject(f"messages[{place}].weight is {weight!r:.40}, not 0 or 1")
    spoken = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    unlearned = [place for place in spoken if weights[place] == 0]
    start = next((place for place in spoken if place > max(unlearned, default=-1)), None)
    if start is None:
        raise Reject("the last turn has weight 0, so there is no completion")
    if start == 0:
        raise Reject("messages has no turn before the assistant's, so there is no prompt")
    if any(place < start and weights[place] != 0 for place in spoken):
        left_out("messages[].weight")
    return {"prompt": turns[:start], "completion": turns[start:]}


def _write(row: SFTExample, place: Place) -> dict[str, Any]:
    check_turns(row.completion, "the completion")
    if row.completion[-1].role != "assistant":
        raise Reject("the completion does not end with a turn of the assistant")
    messages = [_message(message) for message in (*row.prompt, *row.completion)]
    if len(row.completion) > 1 or any(message.role == "assistant" for message in row.prompt):
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                message["weight"] = int(number >= len(row.prompt))
    return {"messages": messages} | ({"tools": read_tools(row.tools)} if row.tools else {})


def _message(message: Message) -> Turn:
    """OpenAI has no name for thinking; this is the one of servers and templates that have it."""
    turn = written(message)
    if thinking := turn.pop("thinking", None):
        turn["reasoning_content"] = thinking
    return turn


def _pair_fits(row: Row) -> bool:
    given = row.get("input")
    outputs = (row.get("preferred_output"), row.get("non_preferred_output"))
    return isinstance(given, Mapping) and are_messages(given.get("messages")) and all(map(are_messages, outputs))


def _read_pair(row: Row, left_out: LeftOut) -> dict[str, Any]:
    names = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    inner = At.field("input")
    refuse_media(row["input"])
    report_rest(row, ("input", *names.values()), left_out)
    report_rest(row["input"], ("messages", "tools"), left_out, inner)
    found = {field: read_turns(row[name], At.field(name), left_out) for field, name in names.items()}
    tools = tools_at(row["input"].get("tools"), inner.part("tools"))
    return {"prompt": read_turns(row["input"]["messages"], inner.part("messages"), left_out)} | found | tools


def _write_pair(row: PreferencePair, place: Place) -> dict[str, Any]:
    for name, turns in (("chosen", row.chosen), ("rejected", row.rejected)):
        if any(message.role not in ("assistant", "tool") for message in turns) or not turns:
            raise Reject(f"{name} has turns that are not the assistant's, and OpenAI's outputs have only those")
    tools = {"tools": read_tools(row.tools)} if row.tools else {}
    messages = {"messages": [_message(message) for message in row.prompt]} | tools
    outputs = {"preferred_output": row.chosen, "non_preferred_output": row.rejected}
    return {"input": messages} | {name: [_message(each) for each in turns] for name, turns in outputs.items()}


SFT = RowFormat(
    "openai",
    SFTExample,
    "messages: [{role, content, tool_calls, ...}], tools; the last turn, or those with weight 1 at the end, is the completion",
    frozenset({"messages", "tools", *MEDIA}),
    _fits,
    _read,
    _write,
)
PAIRS = RowFormat(
    "openai",
    PreferencePair,
    "input: {messages, tools}, preferred_output: [{role, content}], non_preferred_output: [...]",
    frozenset({"input", "preferred_output", "non_preferred_output"}),
    _pair_fits,
    _read_pair,
    _write_pair,
)
