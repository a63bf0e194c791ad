"""Messages as the OpenAI API and TRL write them, `{role, content, tool_calls, ...}`, and the turns of a conversation.

A turn here is a dict with the fields of `Message`, without nulls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.operator import Reject
from operators.formats.rows import At, LeftOut, kind_of, report_rest, text_at
from operators.records import LabelledExample, Message, PreferencePair, SFTExample, read_tools

Turn = dict[str, Any]

_ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    "developer": "system",
    "function": "tool",
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_THINKING = ("thinking", "reasoning_content", "reasoning")
_USED = {"role", "content", "tool_calls", "function_call", "name", "tool_call_id", "weight", *_THINKING}


def are_messages(value: Any) -> bool:
    """Whether a value looks like messages: a list of objects, the first of which has a role."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and "role" in value[0]


def is_message(value: Any) -> bool:
    """Whether a value looks like one message."""
    return isinstance(value, Mapping) and "role" in value


def read_turns(value: Any, at: At, left_out: LeftOut) -> list[Turn]:
    """The turns of a list of messages, of one message, or of none."""
    if is_message(value):
        return [_turn(value, at, left_out)]
    if not isinstance(value, list):
        raise Reject(f"{at.exact} is {kind_of(value)}, not a list of messages")
    return [_turn(message, at.item(place), left_out) for place, message in enumerate(value)]


def user(text: str) -> Turn:
    """A turn of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Turn:
    """A turn of the assistant."""
    return {"role": "assistant", "content": text}


def system(text: str | None) -> list[Turn]:
    """A system prompt as turns: none if there is no text."""
    return [{"role": "system", "content": text}] if text else []


def split_last(turns: list[Turn], at: At) -> tuple[list[Turn], list[Turn]]:
    """(prompt, completion): the completion is the last turn, which must be the assistant's."""
    if not turns:
        raise Reject(f"{at.exact} has no turns")
    if turns[-1]["role"] != "assistant":
        raise Reject(f"the last turn of {at.exact} is not the assistant's ({turns[-1]['role']}), so there is no completion")
    if len(turns) == 1:
        raise Reject(f"{at.exact} has no turn before the assistant's, so there is no prompt")
    return turns[:-1], turns[-1:]


def split_shared(chosen: list[Turn], rejected: list[Turn]) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """(prompt, chosen, rejected): the prompt is what both conversations begin with.

    A completion begins with a turn of the assistant, so turns that only one of them has must not belong to others.
    """
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if same == len(turns):
            raise Reject(f"{name} ends where the other continues, so there is nothing to prefer")
        if turns[same]["role"] != "assistant":
            role = turns[same]["role"]
            raise Reject(f"chosen and rejected differ at {name}[{same}], a turn of the {role}, so their prompts differ")
    return chosen[:same], chosen[same:], rejected[same:]


# -- one message ------------------------------------------------------------------------------------------------------


def _turn(message: Any, at: At, left_out: LeftOut) -> Turn:
    if not isinstance(message, Mapping):
        raise Reject(f"{at.exact} is {kind_of(message)}, not a message with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise Reject(f"{at.exact}.role is {role!r:.40}; roles are {', '.join(_ROLES)}")
    calls = _tool_calls(message, at, left_out)
    content, thought = _content(message.get("content"), at.part("content"), left_out, may_be_null=bool(calls))
    turn: Turn = {"role": _ROLES[role], "content": content}
    if thinking := _thinking(message, thought, at, left_out):
        turn["thinking"] = thinking
    if calls:
        turn["tool_calls"] = calls
    for name in ("name", "tool_call_id"):
        if message.get(name) is not None:
            turn[name] = text_at(message[name], at.part(name))
    report_rest(message, _USED, left_out, at)
    return turn


def _content(value: Any, at: At, left_out: LeftOut, *, may_be_null: bool) -> tuple[str, str]:
    """(text, thinking) of a content: text, or parts that are texts, which are joined as they are."""
    if value is None and may_be_null:
        return "", ""
    if not isinstance(value, list):
        return text_at(value, at), ""
    texts, thoughts = [], []
    for place, part in enumerate(value):
        inside = at.item(place)
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _TEXT_PARTS:
            texts.append(text_at(part.get("text"), inside.part("text")))
            report_rest(part, ("type", "text"), left_out, inside)
        elif kind == "thinking":
            thoughts.append(text_at(part.get("thinking"), inside.part("thinking")))
            report_rest(part, ("type", "thinking"), left_out, inside)
        else:
            raise Reject(f"{inside.exact} is a part of type {kind!r:.40}, and a Message holds text only; remove the row")
    return "".join(texts), "\n".join(thoughts)


def _thinking(message: Mapping[str, Any], thought: str, at: At, left_out: LeftOut) -> str:
    given = [(name, text_at(message[name], at.part(name))) for name in _THINKING if message.get(name) is not None]
    found = thought or next((text for _, text in given), "")
    for name, text in given:
        if text != found:
            left_out(at.part(name).kind)
    return found


def _tool_calls(message: Mapping[str, Any], at: At, left_out: LeftOut) -> list[Turn]:
    given = message.get("tool_calls")
    old = message.get("function_call")
    if not given and isinstance(old, Mapping):
        return [{"function": _function(old, at.part("function_call"), left_out)}]
    if given is None:
        return []
    if not isinstance(given, list):
        raise Reject(f"{at.exact}.tool_calls is {kind_of(given)}, not a list")
    return [_tool_call(call, at.part("tool_calls").item(place), left_out) for place, call in enumerate(given)]


def _tool_call(call: Any, at: At, left_out: LeftOut) -> Turn:
    if not isinstance(call, Mapping):
        raise Reject(f"{at.exact} is {kind_of(call)}, not a call with id and function")
    if call.get("type") not in (None, "function"):
        raise Reject(f"{at.exact}.type is {call['type']!r:.40}; only calls of functions are known")
    if "function" not in call:  # without the envelope, as Hermes writes it
        report_rest(call, ("id", "type", "name", "arguments"), left_out, at)
        return {"function": _function({key: call.get(key) for key in ("name", "arguments")}, at, left_out)} | _id(call, at)
    report_rest(call, ("id", "type", "function"), left_out, at)
    return {"function": _function(call["function"], at.part("function"), left_out)} | _id(call, at)


def _id(call: Mapping[str, Any], at: At) -> Turn:
    return {} if call.get("id") is None else {"id": text_at(call["id"], at.part("id"))}


def _function(value: Any, at: At, left_out: LeftOut) -> Turn:
    if not isinstance(value, Mapping):
        raise Reject(f"{at.exact} is {kind_of(value)}, not a function with name and arguments")
    report_rest(value, ("name", "arguments"), left_out, at)
    return {"name": text_at(value.get("name"), at.part("name")), "arguments": arguments_text(value.get("arguments"))}


def arguments_text(value: Any) -> str:
    """Arguments as JSON text, as OpenAI writes them; TRL and others write an object."""
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)


def arguments_object(text: str) -> Any:
    """Arguments as the object that TRL and chat templates take; text that is not a JSON object stays text."""
    try:
        value = json.loads(text)
    except ValueError:  # a model can write anything
        return text
    return value if isinstance(value, dict) else text


# -- tools ------------------------------------------------------------------------------------------------------------


def tools_at(value: Any, at: At) -> dict[str, str]:
    """The field `tools` of an example: from a list of objects or its JSON text; no field if there are none."""
    if not value:
        return {}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        return {"tools": text} if read_tools(text) else {}
    except ValueError as error:
        raise Reject(f"{at.exact}: {error}") from error


def check_no_tools(row: SFTExample | PreferencePair | LabelledExample, what: str) -> None:
    """Raise Reject if a row has tools, for which a format has no place."""
    if row.tools:
        raise Reject(f"it has tools, for which {what} has no place")


# -- writing -------------------------------------------------------------------------------------------------------------


def written(message: Message) -> Turn:
    """A message as an object without nulls, its fields named as in `Message` (and in TRL)."""
    return message.model_dump(exclude_none=True)


def plain_text(message: Message, why: str) -> str:
    """The text of a message that has nothing else; raises Reject, with `why`, if it has."""
    for name in ("tool_calls", "thinking", "name", "tool_call_id"):
        if getattr(message, name):
            raise Reject(f"a turn of the {message.role} has {name}, for which {why} has no place")
    return message.content


def check_turns(turns: Sequence[Message], what: str) -> None:
    """Raise Reject unless there is a turn and the first is the assistant's: consumers look for the completion there."""
    if not turns or turns[0].role != "assistant":
        raise Reject(f"{what} does not begin with a turn of the assistant")
