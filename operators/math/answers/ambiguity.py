"""Finds ambiguous spellings: an answer that differs in only one of its readings is not wrong."""

from __future__ import annotations

import re

from operators.math.answers.forms import read
from operators.math.answers.notation import normalise

_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_SEPARATED = re.compile(r"\d,\d")
_DEGREE = re.compile(r"\^ ?\{? ?[oO0]\b|\d ?[oO](?![A-Za-z])")
_LIKE_EMPTY = re.compile(r"\\(?:var)?[pP]hi ?|[Øø]")
_ONLY_DIGITS = re.compile(r"-?[\d., ]+")


def doubtful(gold: str, given: str) -> bool:
    """Whether two answers that were read as different may be the same.

    A comma may be a decimal comma or another country's thousands separator (`x = 2,50`, `1,00,000 rupees`); a superscript o or
    0 may be a degree sign (`30^o`); a letter may be an empty set (`\\phi`).
    """
    sides = normalise(gold), normalise(given)
    if any(_DEGREE.search(side) for side in sides):
        return True
    if any(map(_has_odd_comma, sides)):
        bare = all(map(_ONLY_DIGITS.fullmatch, sides))
        return not bare or len({re.sub(r"\D", "", side).strip("0") for side in sides}) == 1
    forms = [read(side) for side in sides]
    empty = [form is not None and form.kind == "set" and not form.parts for form in forms]
    return any(empty) and any(_LIKE_EMPTY.fullmatch(side.strip("$ ")) for side in sides)


def _has_odd_comma(text: str) -> bool:
    """Whether a comma between digits separates neither thousands nor the members of a bracket."""
    text = _GROUPED.sub(lambda found: found[0].replace(",", ""), text)
    if not _SEPARATED.search(text):
        return False
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        between = sign == "," and text[place - 1 : place].isdigit() and text[place + 1 : place + 2].isdigit()
        if between and (depth <= 0 or ";" in text):
            return True
    return False
