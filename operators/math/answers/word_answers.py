"""Reads and compares answers in words: numbers, and words that exclude each other."""

from __future__ import annotations

import re

from operators.math.answers.number_words import NUMBER_WORDS
from operators.records import Verdict

_TEXT = re.compile(r"\\(?:text|mathrm|textbf|textit|textrm|textnormal|textup|operatorname|mbox|rm|emph) ?\{([^{}]*)\}")
_BOLD_NUMBER = re.compile(r"\\(?:mathbf|boldsymbol|bm) ?\{([-\d.,\s]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[-' ][^\W\d_]+)*")
_DIFFERENCE = re.compile(r"(?<!\w)\w ?-|- ?\w(?!\w)")
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
"""The only words that are known to differ in meaning; others may be synonyms ("rises" and "increases")."""


def unwrapped(text: str, *, whole: bool = False) -> str:
    """The text without LaTeX commands for words.

    Args:
        text: the text.
        whole: whether to unwrap only a command that contains the whole text.
    """
    for pattern in (_TEXT, _BOLD_NUMBER):
        if whole:
            found = pattern.fullmatch(text)
            text = found[1] if found else text
        else:
            text = pattern.sub(r"\1", text)
    return text


def word_form(text: str) -> str | int | None:
    """The normal form of an answer in words, or its number; None if it is not in words."""
    plain = re.sub(r"\s+", " ", unwrapped(text)).strip()
    if not _WORDS.fullmatch(plain) or _DIFFERENCE.search(plain):  # p - q is a difference
        return None
    bare = re.sub(r"^(?:the|an?) (?=\w)", "", plain, flags=re.IGNORECASE)
    if len(bare) == 1:
        return bare
    lower = bare.casefold()
    tens, _, ones = lower.replace("-", " ").partition(" ")
    if tens in NUMBER_WORDS and (not ones or (NUMBER_WORDS[tens] >= 20 and 1 <= NUMBER_WORDS.get(ones, 0) <= 9)):
        return NUMBER_WORDS[tens] + NUMBER_WORDS.get(ones, 0)
    return "no solution" if lower == "no solutions" else _SYNONYMS.get(lower, lower)


def compare_words(gold: str, given: str) -> Verdict:
    """Whether two answers in words are the same; wrong only if they exclude each other."""
    if gold == given:
        return "correct"
    if len(gold) == len(given) == 1 and gold.casefold() != given.casefold():
        return "wrong"
    return "wrong" if any(gold in words and given in words for words in _EXCLUSIVE) else "unparsed"
