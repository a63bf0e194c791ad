"""Alpaca: `instruction`, `input`, `output`, also with `system` and `history`, and with preferences and labels as LLaMA-Factory
has them. The user's turn is the instruction and, on a new line, the input, as LLaMA-Factory joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.operator import Place, Reject, RowFormat
from operators.formats.rows import (
    MEDIA,
    At,
    LeftOut,
    Row,
    has_none,
    is_text,
    kind_of,
    label_at,
    refuse_media,
    report_rest,
    text_at,
)
from operators.formats.turns import Turn, assistant, check_no_tools, plain_text, system, user
from operators.records import LabelledExample, Message, PreferencePair, SFTExample

_INPUTS, _OUTPUTS = ("input", "context"), ("output", "response")
_PROMPT = ("instruction", *_INPUTS, "system", "history")


def _prompt(row: Row, used: Sequence[str], left_out: LeftOut) -> list[Turn]:
    refuse_media(row)
    report_rest(row, (*_PROMPT, *used), left_out)
    given = [(name, row[name]) for name in ("instruction", *_INPUTS) if row.get(name) not in (None, "")]
    text = "\n".join(text_at(value, At.field(name)) for name, value in given)
    before = row.get("system")
    return [*system(text_at(before, At.field("system")) if before else None), *_history(row.get("history")), user(text)]


def _history(value: Any) -> list[Turn]:
    at, turns = At.field("history"), []
    if value is not None and not isinstance(value, list):
        raise Reject(f"history is {kind_of(value)}, not a list of [question, answer]")
    for place, pair in enumerate(value or ()):
        inside = at.item(place)
        if not isinstance(pair, list) or len(pair) != 2:
            raise Reject(f"{inside.exact} is not [question, answer]")
        turns += [user(text_at(pair[0], inside.item(0))), assistant(text_at(pair[1], inside.item(1)))]
    return turns


def _output(row: Row) -> str | None:
    """The field with the answer; None unless exactly one of the possible fields has a value."""
    found = [name for name in _OUTPUTS if row.get(name) is not None]
    return found[0] if len(found) == 1 else None


def _is_prompt(row: Row) -> bool:
    return is_text(row.get("instruction")) and not all(row.get(name) is not None for name in _INPUTS)


def _sft_fits(row: Row) -> bool:
    return _is_prompt(row) and _output(row) is not None and not isinstance(row[str(_output(row))], list | dict)


def _read(row: Row, left_out: LeftOut) -> dict[str, Any]:
    name = str(_output(row))
    return {"prompt": _prompt(row, (name,), left_out), "completion": [assistant(text_at(row[name], At.field(name)))]}


def _pair_fits(row: Row) -> bool:
    return _is_prompt(row) and is_text(row.get("chosen")) and is_text(row.get("rejected"))


def _read_pair(row: Row, left_out: LeftOut) -> dict[str, Any]:
    names = ("chosen", "rejected")
    prompt = _prompt(row, names, left_out)
    return {"prompt": prompt} | {name: [assistant(text_at(row.get(name), At.field(name)))] for name in names}


def _labelled_fits(row: Row) -> bool:
    return _sft_fits(row) and not has_none(row, "kto_tag", "label")


def _read_labelled(row: Row, left_out: LeftOut) -> dict[str, Any]:
    label = "kto_tag" if row.get("kto_tag") is not None else "label"
    found = _read({key: value for key, value in row.items() if key != label}, left_out)
    return found | {"label": label_at(row.get(label), At.field(label))}


# -- writing -------------------------------------------------------------------------------------------------------------


def _written(prompt: Sequence[Message]) -> dict[str, Any]:
    roles = [message.role for message in prompt]
    if roles not in (["user"], ["system", "user"]):
        raise Reject(f"Alpaca has one question and one answer, and the prompt has the turns {', '.join(roles) or 'none'}")
    before = plain_text(prompt[0], "Alpaca") if len(prompt) == 2 else ""
    return {"system": before, "instruction": plain_text(prompt[-1], "Alpaca"), "input": ""}


def _answer(turns: Sequence[Message], what: str) -> str:
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Reject(f"Alpaca has one question and one answer, and {what} is not one turn of the assistant")
    return plain_text(turns[0], "Alpaca")


def _write(row: SFTExample, place: Place) -> dict[str, Any]:
    check_no_tools(row, "Alpaca")
    return _written(row.prompt) | {"output": _answer(row.completion, "the completion")}


def _write_pair(row: PreferencePair, place: Place) -> dict[str, Any]:
    check_no_tools(row, "Alpaca")
    answers = {"chosen": _answer(row.chosen, "chosen"), "rejected": _answer(row.rejected, "rejected")}
    return _written(row.prompt) | answers


def _write_labelled(row: LabelledExample, place: Place) -> dict[str, Any]:
    check_no_tools(row, "Alpaca")
    return _written(row.prompt) | {"output": _answer(row.completion, "the completion"), "kto_tag": row.label}


_USED = frozenset({*_PROMPT, *MEDIA})
SFT = RowFormat(
    "alpaca",
    SFTExample,
    "instruction, input (or context), output (or response), system, history: [[question, answer]]",
    _USED | {*_OUTPUTS},
    _sft_fits,
    _read,
    _write,
)
PAIRS = RowFormat(
    "alpaca",
    PreferencePair,
    "instruction, input, chosen, rejected, all texts",
    _USED | {"chosen", "rejected"},
    _pair_fits,
    _read_pair,
    _write_pair,
)
LABELLED = RowFormat(
    "alpaca",
    LabelledExample,
    "instruction, input, output, kto_tag (or label): true or false",
    _USED | {*_OUTPUTS, "kto_tag", "label"},
    _labelled_fits,
    _read_labelled,
    _write_labelled,
)
