"""Spellings that may mean something else: an answer that differs only if they are read one way is not called wrong."""

from __future__ import annotations

import re

from operators.math.forms import read
from operators.math.notation import normalise

_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_SEPARATED = re.compile(r"\d,\d")
_DEGREE = re.compile(r"\^ ?\{? ?[oO0]\b|\d ?[oO](?![A-Za-z])")
_LIKE_EMPTY = re.compile(r"\\(?:var)?[pP]hi ?|[Øø]")
_ONLY_DIGITS = re.compile(r"-?[\d., ]+")


def doubtful(gold: str, given: str) -> bool:
    """Whether two answers that read as different may be the same after all.

    A comma may be a decimal or a grouping one of another country (`x = 2,50`, `1,00,000 rupees`), an o or 0 above the
    line a degree sign (`30^o`), and a letter an empty set (`\\phi`).
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
    """Whether there is a comma between digits that neither groups thousands nor, within brackets, separates members."""
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
