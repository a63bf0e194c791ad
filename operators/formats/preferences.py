"""Published preferences: UltraFeedback with scores and binarized, and Anthropic's dialogues (HH)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.operator import Reject, RowFormat
from operators.formats.rows import At, LeftOut, Row, is_text, kind_of, report_rest, text_at
from operators.formats.trl import PAIR, is_hh, turns_of
from operators.formats.turns import Turn, are_messages, assistant, split_shared, user
from operators.records import PreferencePair

# -- UltraFeedback with scores ----------------------------------------------------------------------------------------

_COMPLETIONS = At.field("completions")
_SCORES = ("overall_score", "fine-grained_score")


def _scores_fit(row: Row) -> bool:
    given = row.get("completions")
    return is_text(row.get("instruction")) and isinstance(given, list) and all(map(_is_answer, given[:1])) and bool(given)


def _is_answer(value: Any) -> bool:
    return isinstance(value, Mapping) and "response" in value and any(name in value for name in _SCORES)


def _read_scores(row: Row, left_out: LeftOut) -> dict[str, Any]:
    """The completion with the highest score is chosen, the one with the lowest is rejected; of equal ones, the first."""
    answers = row["completions"]
    if len(answers) < 2:
        raise Reject("completions has fewer than two, so there is no pair")
    scores = [_score(answer, _COMPLETIONS.item(place)) for place, answer in enumerate(answers)]
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    if best == worst:
        raise Reject(f"all completions have the score {scores[0]:g}, so none is preferred")
    report_rest(row, ("instruction", "completions"), left_out)
    if len(answers) > 2:
        left_out("completions[] between the best and the worst")
    found = {"prompt": [user(text_at(row["instruction"], At.field("instruction")))]}
    for name, place in (("chosen", best), ("rejected", worst)):
        at = _COMPLETIONS.item(place)
        report_rest(answers[place], ("response", *_SCORES), left_out, at)
        found[name] = [assistant(text_at(answers[place].get("response"), at.part("response")))]
    return found


def _score(answer: Any, at: At) -> float:
    if not isinstance(answer, Mapping):
        raise Reject(f"{at.exact} is {kind_of(answer)}, not a completion with response and score")
    name = next((each for each in _SCORES if answer.get(each) is not None), _SCORES[0])
    value = answer.get(name)
    try:
        return float(value if value is not None and not isinstance(value, bool) else "")
    except (TypeError, ValueError):
        raise Reject(f"{at.exact}.{name} is {value!r:.40}, not a number") from None


# -- UltraFeedback, binarized -----------------------------------------------------------------------------------------


def _binarized_fits(row: Row) -> bool:
    return is_text(row.get("prompt")) and all(are_messages(row.get(name)) for name in PAIR)


def _read_binarized(row: Row, left_out: LeftOut) -> dict[str, Any]:
    """`prompt` repeats a turn that both conversations have, or is the only prompt."""
    report_rest(row, ("prompt", *PAIR), left_out)
    prompt, chosen, rejected = split_shared(*(turns_of(row, name, left_out) for name in PAIR))
    asked = text_at(row["prompt"], At.field("prompt"))
    if prompt and asked.strip() not in [turn["content"].strip() for turn in prompt]:
        raise Reject("prompt is not one of the turns that chosen and rejected begin with")
    return {"prompt": prompt or [user(asked)], "chosen": chosen, "rejected": rejected}


# -- Anthropic HH -----------------------------------------------------------------------------------------------------

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def _hh_fits(row: Row) -> bool:
    return all(is_hh(row.get(name)) for name in PAIR)


def _dialogue(value: str) -> list[Turn]:
    _, *parts = _SPEAKER.split(value)
    said = zip(parts[::2], parts[1::2], strict=True)
    return [user(text.strip()) if speaker == "Human" else assistant(text.strip()) for speaker, text in said]


def _read_hh(row: Row, left_out: LeftOut) -> dict[str, Any]:
    """The prompt is all but the last turn, which is the assistant's; it must be the same in both dialogues."""
    report_rest(row, PAIR, left_out)
    chosen, rejected = (_dialogue(row[name]) for name in PAIR)
    if chosen[:-1] != rejected[:-1]:
        raise Reject("chosen and rejected differ before their last turn, so they have no prompt in common")
    if any(turns[-1]["role"] != "assistant" for turns in (chosen, rejected)) or len(chosen) < 2:
        raise Reject("chosen and rejected do not end with a turn of the assistant after one of the human")
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


ULTRAFEEDBACK = RowFormat(
    "ultrafeedback",
    PreferencePair,
    "instruction, completions: [{response, overall_score}]; best against worst",
    frozenset({"instruction", "completions"}),
    _scores_fit,
    _read_scores,
)
BINARIZED = RowFormat(
    "ultrafeedback_binarized",
    PreferencePair,
    "prompt: text, chosen, rejected: whole conversations as lists of messages",
    frozenset({"prompt", *PAIR}),
    _binarized_fits,
    _read_binarized,
)
HH = RowFormat(
    "hh",
    PreferencePair,
    r"chosen, rejected: texts `Human: ...` and `Assistant: ...`, which differ in the last turn",
    frozenset(PAIR),
    _hh_fits,
    _read_hh,
)
