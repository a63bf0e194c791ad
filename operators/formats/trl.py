"""TRL's formats, as texts or messages: prompt and completion, preferences with or without a prompt, unpaired preferences.

Texts become one turn each: a prompt the user's, a completion the assistant's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from engine.operator import Place, Reject, RowFormat
from operators.formats.rows import MEDIA, At, LeftOut, Row, has_none, is_text, label_at, refuse_media, report_rest, text_at
from operators.formats.turns import (
    Turn,
    are_messages,
    arguments_object,
    assistant,
    is_message,
    read_turns,
    split_shared,
    tools_at,
    user,
    written,
)
from operators.records import LabelledExample, Message, PreferencePair, SFTExample

PAIR = ("chosen", "rejected")
_TOOLS = At.field("tools")


def is_turns(value: Any) -> bool:
    """Whether a value is text, or looks like messages."""
    return is_text(value) or are_messages(value) or is_message(value)


def _both(row: Row, look: Any) -> bool:
    return all(look(row.get(name)) for name in PAIR)


def turns_of(row: Row, name: str, left_out: LeftOut) -> list[Turn]:
    """The turns in a field: a text is one turn."""
    at, value = At.field(name), row.get(name)
    if isinstance(value, list) or is_message(value):
        return read_turns(value, at, left_out)
    text = text_at(value, at)
    return [user(text) if name == "prompt" else assistant(text)]


def _read(row: Row, left_out: LeftOut, names: Sequence[str] = ("prompt", "completion")) -> dict[str, Any]:
    refuse_media(row)
    report_rest(row, (*names, "tools"), left_out)
    return {name: turns_of(row, name, left_out) for name in names} | tools_at(row.get("tools"), _TOOLS)


def _read_pair(row: Row, left_out: LeftOut) -> dict[str, Any]:
    return _read(row, left_out, ("prompt", *PAIR))


def _read_labelled(row: Row, left_out: LeftOut) -> dict[str, Any]:
    found = _read({key: value for key, value in row.items() if key != "label"}, left_out)
    return found | {"label": label_at(row.get("label"), At.field("label"))}


# -- without a prompt -------------------------------------------------------------------------------------------------


def is_hh(value: Any) -> bool:
    """Whether a value is a dialogue as Anthropic writes it."""
    return isinstance(value, str) and value.lstrip().startswith("Human:")


_ASKED = ("instruction", "question", "query", "input")


def _implicit_fits(row: Row) -> bool:
    texts = _both(row, is_text) and not _both(row, is_hh) and has_none(row, *_ASKED)
    return row.get("prompt") is None and (texts or _both(row, are_messages))


def _read_implicit(row: Row, left_out: LeftOut) -> dict[str, Any]:
    refuse_media(row)
    report_rest(row, (*PAIR, "tools"), left_out)
    tools = tools_at(row.get("tools"), _TOOLS)
    if _both(row, is_text):
        return _shared_text(row["chosen"], row["rejected"]) | tools
    prompt, chosen, rejected = split_shared(*(turns_of(row, name, left_out) for name in PAIR))
    if not prompt:
        raise Reject("chosen and rejected share no turn, so there is no prompt")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | tools


def _shared_text(chosen: str, rejected: str) -> dict[str, Any]:
    """The prompt is the words that both texts begin with."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    end = max((place for place in range(same) if chosen[place].isspace()), default=0)
    prompt, rest = chosen[:end].rstrip(), [text[end:].lstrip() for text in (chosen, rejected)]
    if not prompt or not all(rest):
        raise Reject("chosen and rejected do not begin with the same words and then differ, so there is no prompt")
    return {"prompt": [user(prompt)], "chosen": [assistant(rest[0])], "rejected": [assistant(rest[1])]}


def _labelled_prompt(row: Row) -> bool:
    return is_turns(row.get("prompt")) and is_turns(row.get("completion")) and row.get("label") is not None


# -- writing -------------------------------------------------------------------------------------------------------------


def _messages(turns: Sequence[Message]) -> list[Turn]:
    """Messages for a chat template, which takes the arguments of a call as an object."""
    found = [written(message) for message in turns]
    for turn in found:
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = arguments_object(call["function"]["arguments"])
    return found


def _with_tools(written: dict[str, Any], tools: str | None) -> dict[str, Any]:
    """As JSON text, tools pass through datasets unchanged, and TRL's trainers read it."""
    return written | ({"tools": tools} if tools else {})


def _write(row: SFTExample, place: Place) -> dict[str, Any]:
    return _with_tools({"prompt": _messages(row.prompt), "completion": _messages(row.completion)}, row.tools)


def _write_pair(row: PreferencePair, place: Place) -> dict[str, Any]:
    turns = {"prompt": _messages(row.prompt), "chosen": _messages(row.chosen), "rejected": _messages(row.rejected)}
    return _with_tools(turns, row.tools)


def _write_labelled(row: LabelledExample, place: Place) -> dict[str, Any]:
    turns = {"prompt": _messages(row.prompt), "completion": _messages(row.completion)}
    return _with_tools({**turns, "label": row.label}, row.tools)


_MEDIA = frozenset(MEDIA)
SFT = RowFormat(
    "trl",
    SFTExample,
    "prompt, completion: texts, or lists of messages; tools",
    _MEDIA | {"prompt", "completion", "tools"},
    lambda row: is_turns(row.get("prompt")) and is_turns(row.get("completion")),
    _read,
    _write,
)
PAIRS = RowFormat(
    "trl",
    PreferencePair,
    "prompt, chosen, rejected: texts, or lists of messages; tools",
    _MEDIA | {"prompt", *PAIR, "tools"},
    lambda row: (
        (is_text(row.get("prompt")) and _both(row, is_text)) or (are_messages(row.get("prompt")) and _both(row, is_turns))
    ),
    _read_pair,
    _write_pair,
)
IMPLICIT_PAIRS = RowFormat(
    "trl_implicit",
    PreferencePair,
    "chosen, rejected: texts or lists of messages; what they begin with is the prompt; tools",
    _MEDIA | {"prompt", *_ASKED, *PAIR, "tools"},
    _implicit_fits,
    _read_implicit,
)
LABELLED = RowFormat(
    "trl",
    LabelledExample,
    "prompt, completion: texts, or lists of messages; label: true or false; tools",
    _MEDIA | {"prompt", "completion", "label", "tools"},
    _labelled_prompt,
    _read_labelled,
    _write_labelled,
)
