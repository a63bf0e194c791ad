"""ShareGPT: `conversations: [{from: human, value: ...}, {from: gpt, value: ...}]`, with preferences and labels as LLaMA-Factory
has them. Calls of tools are turns of their own (`function_call`, `observation`) and have no ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.operator import Place, Reject, RowFormat
from operators.formats.rows import MEDIA, At, LeftOut, Row, kind_of, label_at, refuse_media, report_rest, text_at
from operators.formats.turns import Turn, arguments_text, plain_text, split_last, system, tools_at
from operators.records import LabelledExample, Message, PreferencePair, SFTExample

_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
}
_LISTS = ("conversations", "conversation")


def _name(row: Row) -> str | None:
    """The field with the conversation: a list of objects with from and value (or role and content)."""
    found = [name for name in _LISTS if _is_list(row.get(name))]
    return found[0] if len(found) == 1 else None


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and _is_turn(value[0])


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and ("from" in value or "role" in value) and ("value" in value or "content" in value)


def _turn(value: Any, at: At, left_out: LeftOut) -> Turn:
    if not isinstance(value, Mapping):
        raise Reject(f"{at.exact} is {kind_of(value)}, not a turn with from and value")
    speaker, said = ("from" if value.get("from") is not None else "role"), ("value" if "value" in value else "content")
    role = value.get(speaker)
    if not isinstance(role, str) or role not in _ROLES:
        raise Reject(f"{at.exact}.{speaker} is {role!r:.40}; known are {', '.join(_ROLES)}")
    report_rest(value, (speaker, said), left_out, at)
    text = text_at(value.get(said), at.part(said))
    if role == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(text, at.part(said))}
    return {"role": _ROLES[role], "content": text}


def _calls(text: str, at: At) -> list[Turn]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Reject(f"{at.exact} is a function call that is not JSON: {error}") from error
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise Reject(f"{at.exact} is a function call without name and arguments")
    for call in calls:
        if more := call.keys() - {"name", "arguments"}:
            raise Reject(f"{at.exact} is a function call with {', '.join(sorted(more))}, for which a ToolCall has no place")
    return [{"function": {"name": call["name"], "arguments": arguments_text(call.get("arguments"))}} for call in calls]


def _turns(row: Row, used: Sequence[str], left_out: LeftOut) -> tuple[list[Turn], At]:
    refuse_media(row)
    name = str(_name(row))
    at = At.field(name)
    turns = [_turn(value, at.item(place), left_out) for place, value in enumerate(row[name])]
    given = row.get("system")
    if given and turns[0]["role"] == "system":
        raise Reject(f"it has a system prompt twice: in system and in {name}[0]")
    report_rest(row, (name, "system", *used), left_out)
    return system(text_at(given, At.field("system")) if given else None) + turns, at


def _read(row: Row, left_out: LeftOut) -> dict[str, Any]:
    turns, at = _turns(row, ("tools",), left_out)
    prompt, completion = split_last(turns, at)
    return {"prompt": prompt, "completion": completion} | tools_at(row.get("tools"), At.field("tools"))


def _read_pair(row: Row, left_out: LeftOut) -> dict[str, Any]:
    turns, _ = _turns(row, ("chosen", "rejected", "tools"), left_out)
    found = {name: [_turn(row[name], At.field(name), left_out)] for name in ("chosen", "rejected")}
    return {"prompt": turns} | found | tools_at(row.get("tools"), At.field("tools"))


def _read_labelled(row: Row, left_out: LeftOut) -> dict[str, Any]:
    name = "kto_tag" if row.get("kto_tag") is not None else "label"
    turns, at = _turns(row, (name, "tools"), left_out)
    prompt, completion = split_last(turns, at)
    tools = tools_at(row.get("tools"), At.field("tools"))
    return {"prompt": prompt, "completion": completion, "label": label_at(row[name], At.field(name))} | tools


# -- writing -------------------------------------------------------------------------------------------------------------


def _written(message: Message) -> Turn:
    """A turn. Ids of tool calls are left out: each observation follows its call."""
    if calls := message.tool_calls:
        if message.content:
            raise Reject("a turn of the assistant has text and tool_calls, and ShareGPT has a turn for one of them")
        given = [{"name": call.function.name, "arguments": _json(call.function.arguments)} for call in calls]
        text = json.dumps(given[0] if len(given) == 1 else given, ensure_ascii=False)
        bare = message.model_copy(update={"tool_calls": None})
        plain_text(bare, "ShareGPT")
        return {"from": "function_call", "value": text}
    bare = message.model_copy(update={"tool_call_id": None, "name": None}) if message.role == "tool" else message
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    return {"from": names[message.role], "value": plain_text(bare, "ShareGPT")}


def _json(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:  # a model can write anything
        return arguments


def _conversation(prompt: Sequence[Message], completion: Sequence[Message]) -> list[Turn]:
    """The conversation; readers drop rows whose speakers do not take turns, so that is an error here."""
    turns = [_written(message) for message in (*prompt, *completion)]
    rest = turns[1:] if turns and turns[0]["from"] == "system" else turns
    for place, turn in enumerate(rest):
        if (turn["from"] in ("gpt", "function_call")) != bool(place % 2) or turn["from"] == "system":
            raise Reject("its speakers do not take turns, user or tool first, as ShareGPT's readers demand")
    return turns


def _one(turns: Sequence[Message], what: str) -> Message:
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Reject(f"{what} is not one turn of the assistant, and ShareGPT has a place for one")
    return turns[0]


def _write(row: SFTExample, place: Place) -> dict[str, Any]:
    found = {"conversations": _conversation(row.prompt, [_one(row.completion, "the completion")])}
    return found | _tools_of(row)


def _write_pair(row: PreferencePair, place: Place) -> dict[str, Any]:
    chosen, rejected = _one(row.chosen, "chosen"), _one(row.rejected, "rejected")
    turns = _conversation(row.prompt, [chosen])[:-1]
    return {"conversations": turns, "chosen": _written(chosen), "rejected": _written(rejected)} | _tools_of(row)


def _write_labelled(row: LabelledExample, place: Place) -> dict[str, Any]:
    found = {"conversations": _conversation(row.prompt, [_one(row.completion, "the completion")])}
    return found | {"kto_tag": row.label} | _tools_of(row)


def _tools_of(row: SFTExample | PreferencePair | LabelledExample) -> dict[str, str]:
    return {"tools": row.tools} if row.tools else {}


_USED = frozenset({*_LISTS, "system", *MEDIA})
SFT = RowFormat(
    "sharegpt",
    SFTExample,
    "conversations: [{from: human, value}, {from: gpt, value}], system, tools; the last turn is the completion",
    _USED | {"tools"},
    lambda row: _name(row) is not None,
    _read,
    _write,
)
PAIRS = RowFormat(
    "sharegpt",
    PreferencePair,
    "conversations: [{from, value}], chosen: {from, value}, rejected: {from, value}, tools",
    _USED | {"chosen", "rejected", "tools"},
    lambda row: _name(row) is not None and all(_is_turn(row.get(name)) for name in ("chosen", "rejected")),
    _read_pair,
    _write_pair,
)
LABELLED = RowFormat(
    "sharegpt",
    LabelledExample,
    "conversations: [{from, value}], kto_tag (or label): true or false, tools; the last turn is the completion",
    _USED | {"kto_tag", "label", "tools"},
    lambda row: _name(row) is not None and (row.get("kto_tag") is not None or row.get("label") is not None),
    _read_labelled,
    _write_labelled,
)
