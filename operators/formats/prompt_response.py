"""Two texts in a row under any of the usual names: a question and its answer."""

from __future__ import annotations

from typing import Any

from engine.operator import RowFormat
from operators.formats.rows import MEDIA, At, LeftOut, Row, has_none, is_text, label_at, refuse_media, report_rest, text_at
from operators.formats.turns import Turn, assistant, system, user
from operators.records import LabelledExample, PreferencePair, SFTExample

_PAIRS = (
    *(("prompt", answer) for answer in ("response", "output", "answer")),
    *(("question", answer) for answer in ("answer", "response", "completion", "output")),
    *(("query", answer) for answer in ("response", "answer", "output")),
    ("input", "output"),
    ("problem", "solution"),
)
_QUESTIONS = ("question", "query", "input")
_SYSTEMS = ("system", "system_prompt")
_NAMES = frozenset(name for pair in _PAIRS for name in pair)


def _pair(row: Row) -> tuple[str, str] | None:
    """The names of question and answer; None if there is no pair, or more than one."""
    found = [pair for pair in _PAIRS if is_text(row.get(pair[0])) and isinstance(row.get(pair[1]), str)]
    return found[0] if len(found) == 1 else None


def _prompt(row: Row, name: str, used: tuple[str, ...], left_out: LeftOut) -> list[Turn]:
    refuse_media(row)
    before = next((each for each in _SYSTEMS if row.get(each)), _SYSTEMS[0])
    report_rest(row, (name, before, *used), left_out)
    given = row.get(before)
    return [*system(text_at(given, At.field(before)) if given else None), user(text_at(row.get(name), At.field(name)))]


def _fits(row: Row) -> bool:
    return _pair(row) is not None and has_none(row, "instruction", "messages", "conversations")


def _read(row: Row, left_out: LeftOut, used: tuple[str, ...] = ()) -> dict[str, Any]:
    question, answer = _pair(row) or ("", "")
    prompt = _prompt(row, question, (answer, *used), left_out)
    return {"prompt": prompt, "completion": [assistant(text_at(row.get(answer), At.field(answer)))]}


def _pair_fits(row: Row) -> bool:
    asked = [name for name in _QUESTIONS if is_text(row.get(name))]
    answered = all(is_text(row.get(name)) for name in ("chosen", "rejected"))
    return len(asked) == 1 and answered and has_none(row, "prompt", "instruction")


def _read_pair(row: Row, left_out: LeftOut) -> dict[str, Any]:
    names = ("chosen", "rejected")
    question = next(name for name in _QUESTIONS if is_text(row.get(name)))
    prompt = _prompt(row, question, names, left_out)
    return {"prompt": prompt} | {name: [assistant(text_at(row.get(name), At.field(name)))] for name in names}


def _read_labelled(row: Row, left_out: LeftOut) -> dict[str, Any]:
    return _read(row, left_out, ("label",)) | {"label": label_at(row.get("label"), At.field("label"))}


_USED = frozenset({*_SYSTEMS, *MEDIA, "prompt", "instruction", "messages", "conversations"})
SFT = RowFormat(
    "prompt_response",
    SFTExample,
    "two texts: prompt and response (output, answer), question and answer (response, completion, output), query and response "
    "(answer, output), input and output, or problem and solution; system (or system_prompt)",
    _USED | _NAMES,
    _fits,
    _read,
)
PAIRS = RowFormat(
    "prompt_response",
    PreferencePair,
    "question (query, input), chosen, rejected: texts; system (or system_prompt)",
    _USED | {*_QUESTIONS, "chosen", "rejected"},
    _pair_fits,
    _read_pair,
)
LABELLED = RowFormat(
    "prompt_response",
    LabelledExample,
    "two texts as for SFTExample; label: true or false",
    _USED | _NAMES | {"label"},
    lambda row: _fits(row) and row.get("label") is not None,
    _read_labelled,
)
