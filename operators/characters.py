"""Unicode normalisation that keeps meaningful differences between texts, in linear time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_MOST_MARKS = 30
"""The maximum number of successive combining marks, as in the Stream-Safe Text Format (UAX #15).

Sorting a longer run takes quadratic time."""

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True))
_SCRIPTS = {**_SUPERSCRIPTS, **_SUBSCRIPTS}
_PRESERVED: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞])"), " "),
    (re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+"), lambda found: "^{" + "".join(_SCRIPTS[sign] for sign in found[0]) + "}"),
    (re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋]+"), lambda found: "_{" + "".join(_SCRIPTS[sign] for sign in found[0]) + "}"),
    (re.compile("[\u00ba\u02da]"), "°"),
]
"""Characters whose meaning NFKC would change: 1½ would become 11/2, 10² 102, and 60º 60o."""


def stream_safe(text: str) -> str:
    """The text with at most 30 combining marks in a row, so that normalising it takes linear time."""
    if text.isascii():
        return text
    kept, run = [], 0
    for sign in text:
        run = run + 1 if unicodedata.combining(sign) else 0
        if run <= _MOST_MARKS:
            kept.append(sign)
    return "".join(kept)


def compatible(text: str) -> str:
    """NFKC, but 10² becomes `10^{2}`, x₁ becomes `x_{1}` and 1½ becomes `1 1⁄2`; digits of all scripts become ASCII digits."""
    if text.isascii():
        return text
    text = stream_safe(text)
    for pattern, by in _PRESERVED:
        text = pattern.sub(by, text)
    return "".join(map(_ascii_digit, unicodedata.normalize("NFKC", text)))


def folded(text: str) -> str:
    """`compatible`, case-folded, and without the accents that English texts drop; only Latin letters lose them.

    A word with a Vietnamese mark keeps all its marks.
    """
    text = compatible(text).casefold()
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", "".join(map(_without_accents, re.split(r"(\s+)", unicodedata.normalize("NFD", text)))))


def has_meaningful_marks(text: str) -> bool:
    """Whether a text has letters of a non-Latin script, or letters with marks that English texts keep."""
    decomposed = unicodedata.normalize("NFD", compatible(text))
    return any(
        sign not in _WITHOUT_MEANING and (unicodedata.combining(sign) or (sign.isalpha() and not sign.isascii()))
        for sign in decomposed
    )


_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0326\u0327\u0328")
"""Grave, acute, circumflex, tilde, macron, breve, dot, diaeresis, ring, double acute, caron, comma, cedilla, ogonek."""
_WITHOUT_MEANING = (_ACCENTS - {"\u0306"}) | frozenset("ßæœøłðþÆŒØŁÐÞ")
"""The breve is not included: it may be Romanian or Vietnamese."""


def _without_accents(word: str) -> str:
    """A decomposed word without its accents, if these are all of its marks."""
    if any(unicodedata.combining(sign) and sign not in _ACCENTS for sign in word):
        return word
    kept, base = [], ""
    for sign in word:
        if sign in _ACCENTS and base.isascii():
            continue
        if not unicodedata.combining(sign):
            base = sign
        kept.append(sign)
    return "".join(kept)


def _ascii_digit(sign: str) -> str:
    return sign if sign.isascii() else str(unicodedata.decimal(sign, sign))
