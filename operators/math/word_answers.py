"""Answers in words: numbers in words, and words that exclude each other."""

from __future__ import annotations

import re

from operators.records import Verdict

_TEXT = re.compile(r"\\(?:text|mathrm|textbf|textit|textrm|textnormal|textup|operatorname|mbox|rm|emph) ?\{([^{}]*)\}")
_BOLD_NUMBER = re.compile(r"\\(?:mathbf|boldsymbol|bm) ?\{([-\d.,\s]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[-' ][^\W\d_]+)*")
_DIFFERENCE = re.compile(r"(?<!\w)\w ?-|- ?\w(?!\w)")
_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_COUNTED: dict[str, int] = dict(zip([*_ONES, *_TENS], [*range(20), *range(20, 100, 10)], strict=True))
_SYNONYMS = {"true": "yes", "false": "no", "dne": "does not exist"}
_EXCLUSIVE = [
    {"yes", "no"},
    {"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"},
    {"january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"},
    {"odd", "even"},
    {"positive", "negative"},
    {"increasing", "decreasing"},
    {"prime", "composite"},
    {"rational", "irrational"},
    {"convergent", "divergent"},
    {"converges", "diverges"},
    {"heads", "tails"},
    {"left", "right"},
    {"acute", "obtuse"},
]
"""Of different words only these are known to mean different things: "rises" may be "increases"."""


def unwrapped(text: str, *, whole: bool = False) -> str:
    """The text without LaTeX's commands for words.

    Args:
        whole: only where one such command holds the whole text.
    """
    for pattern in (_TEXT, _BOLD_NUMBER):
        if whole:
            found = pattern.fullmatch(text)
            text = found[1] if found else text
        else:
            text = pattern.sub(r"\1", text)
    return text


def word_form(text: str) -> str | int | None:
    """An answer in words in the form in which words are compared, or its number; None where it is not in words."""
    plain = re.sub(r"\s+", " ", unwrapped(text)).strip()
    if not _WORDS.fullmatch(plain) or _DIFFERENCE.search(plain):  # p - q is a difference
        return None
    bare = re.sub(r"^(?:the|an?) (?=\w)", "", plain, flags=re.IGNORECASE)
    if len(bare) == 1:
        return bare
    lower = bare.casefold()
    tens, _, ones = lower.replace("-", " ").partition(" ")
    if tens in _COUNTED and (not ones or (tens in _TENS and ones in _ONES[1:10])):
        return _COUNTED[tens] + _COUNTED.get(ones, 0)
    return "no solution" if lower == "no solutions" else _SYNONYMS.get(lower, lower)


def compare_words(gold: str, given: str) -> Verdict:
    """Whether two answers in words are the same; wrong only where they exclude each other."""
    if gold == given:
        return "correct"
    if len(gold) == len(given) == 1 and gold.casefold() != given.casefold():
        return "wrong"
    return "wrong" if any(gold in words and given in words for words in _EXCLUSIVE) else "unparsed"
