"""Checks rewritten problems: they must have the same quantities but other words, and must not reveal the answer."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from functools import lru_cache

from operators.math.answers.notation import MOST_DIGITS, as_number, normalise
from operators.math.answers.number_words import NUMBER_WORDS

_KEPT = 4096
"""The number of texts to cache: a problem is compared with each of its rewrites, and a worker handles many at once."""
_WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+(?:[.,:/]\d+)*%?")
_FIGURE = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(
    r"(?<![\d.,/])(?:(?P<whole>\d+)[ -])?(?P<top>\d+)\s*/\s*(?P<bottom>0*[1-9]\d*)(?![\d/])"
    rf"|(?P<ordinal>\d+(?:st|nd|rd|th)\b)|(?P<figure>{_FIGURE})|(?P<word>[^\W\d_]+|%)"
)
_TOO_MANY_DIGITS = re.compile(rf"\d{{{MOST_DIGITS + 1}}}")
_LATEX_FRACTION = re.compile(r"\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_LABEL = re.compile(r"^\W*+(?:rewritten|new|the)?\s*problem(?:[^\w\n]*:[\s*]*|[^\w\n]*\n\s*)", re.IGNORECASE)
_PREAMBLE = re.compile(r"(?:sure|here|certainly|of course|okay)\b", re.IGNORECASE)
_ANNOUNCED = re.compile(r"\b(?:problem|version|rewrite)\b", re.IGNORECASE)
_MOST_TIMES_LONGER = 10
_ALWAYS_ALLOWED = 2000
"""The number of characters that a rewrite may have however short the original is."""

_NAMED = {word: Fraction(value) for word, value in NUMBER_WORDS.items()}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12, "dozens": 12}
_MULTIPLES = {
    **dict.fromkeys(["twice", "double", "doubles", "doubled"], Fraction(2)),
    **dict.fromkeys(["thrice", "triple", "triples", "tripled"], Fraction(3)),
    **dict.fromkeys(["half", "halves", "halved"], Fraction(1, 2)),
}
_PARTS = {"quarter": 4, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}
"""Fractions after a number or `a`, or before `of`: "the third day" is not a third, "three fifth graders" not three fifths."""
_UNCOUNTED = frozenset({Fraction(1)})
"""`one` and `1` are ignored, because often they are not quantities (`one day`, `which one`)."""


def clean(rewrite: str) -> str:
    """The rewritten problem, without what models write around it."""
    text = _LABEL.sub("", _without_preamble(rewrite.strip())).strip()
    if len(text) > 1 and text[0] in "\"“'" and text[-1] in "\"”'":
        text = text[1:-1].strip()
    return text


def _without_preamble(text: str) -> str:
    """The text without an introduction such as "Sure, here is the problem:"."""
    if not _PREAMBLE.match(text):
        return text
    first, newline, rest = text.partition("\n")
    if newline and first.rstrip().endswith(":"):
        return rest.strip()
    head, colon, behind = first.partition(":")
    return (behind + newline + rest).strip() if colon and _ANNOUNCED.search(head) else text


@lru_cache(maxsize=_KEPT)
def quantities(text: str) -> frozenset[Fraction]:
    """The numbers in a problem, in figures or in words: `1,200`, `3/4`, `25%` (a quarter), `half`,
    `twenty-five`, `2.5 million`, `one and a half`, `a dozen`. Ordinals (`2nd`, `second`) and numbers of more than 1,000 digits
    do not count.
    """
    found: set[Fraction] = set()
    tokens = _tokens(text)
    place = 0
    while place < len(tokens):
        value, place = _quantity(tokens, place)
        if value is not None:
            found.add(value)
    return frozenset(found)


def problem_with(
    original: str, rewrite: str, answer: str, *, others: Collection[str] = (), check_quantities: bool = True
) -> str | None:
    """Why a rewrite cannot be used; None if it can.

    Args:
        original: the problem that was rewritten.
        rewrite: the new text of the problem.
        answer: the gold answer, which the rewrite must not reveal.
        others: the rewrites of the same problem that were kept.
        check_quantities: whether the rewrite must have exactly the quantities of the original.
    """
    if not rewrite:
        return "the rewrite is empty"
    if len(rewrite) > _MOST_TIMES_LONGER * len(original) + _ALWAYS_ALLOWED:
        return f"the rewrite is far longer than the original: {len(rewrite):,} characters instead of {len(original):,}"
    if _TOO_MANY_DIGITS.search(normalise(rewrite)):
        return f"the rewrite has a number of more than {MOST_DIGITS:,} digits"
    if _words(rewrite) == _words(original):
        return "the rewrite equals the original"
    if any(_words(rewrite) == _words(other) for other in others):
        return "the rewrite equals another rewrite of the same problem"
    before, after = quantities(original) - _UNCOUNTED, quantities(rewrite) - _UNCOUNTED
    if _reveals(original, rewrite, answer, before, after):
        return "the rewrite reveals the answer"
    if not check_quantities:
        return None
    if lost := before - after:
        return f"the rewrite lacks a quantity: {_listed(lost)}"
    if added := after - before:
        return f"the rewrite adds a quantity: {_listed(added)}"
    return None


def _reveals(original: str, rewrite: str, answer: str, before: frozenset[Fraction], after: frozenset[Fraction]) -> bool:
    number = as_number(answer)
    if number is not None:
        revealed = {abs(number), abs(number) / 100} & (after - before)  # an answer of 25 may appear as 25%
        return abs(number) not in _UNCOUNTED and bool(revealed)
    # An answer in words or symbols. A single letter proves nothing.
    wanted = " ".join(_words(answer))
    if len(wanted) < 2:
        return False
    return f" {wanted} " in f" {' '.join(_words(rewrite))} " and f" {wanted} " not in f" {' '.join(_words(original))} "


@lru_cache(maxsize=_KEPT)
def _words(text: str) -> tuple[str, ...]:
    return tuple(word.casefold().replace(",", "") for word in _WORDS.findall(normalise(text)))


def _tokens(text: str) -> list[Fraction | str]:
    """The tokens of a text: figures as numbers, and words."""
    tokens: list[Fraction | str] = []
    for match in _TOKEN.finditer(_LATEX_FRACTION.sub(r" \1/\2 ", normalise(text))):
        if len(match[0]) > MOST_DIGITS:
            tokens.append(match[0])
        elif match["top"]:
            part = Fraction(int(match["top"]), int(match["bottom"]))
            whole = [Fraction(int(match["whole"]))] if match["whole"] else []
            tokens += [whole[0] + part] if whole and part < 1 else [*whole, part]
        elif match["figure"]:
            tokens.append(Fraction(match["figure"].replace(",", "")))
        elif match["word"]:
            tokens.append(match["word"].lower())
    return tokens


def _quantity(tokens: Sequence[Fraction | str], place: int) -> tuple[Fraction | None, int]:
    """The number that begins at a token, if any, and the place after it."""
    part, end = _part(tokens, place)
    if part is not None:
        return part, end
    value, end = _number(tokens, place)
    if value is None:
        return _MULTIPLES.get(str(tokens[place])), place + 1
    if value.denominator == 1 and tokens[end : end + 1] == ["and"]:
        more, behind = _part(tokens, end + 1)
        if more is not None and tokens[end + 1] != "half" and tokens[behind : behind + 1] != ["of"]:
            value, end = value + more, behind  # `two and a half`; but `two, and half of the rest`
    if tokens[end : end + 1] in (["%"], ["percent"], ["percentage"]):
        return value / 100, end + 1
    return (value / 100, end + 2) if tokens[end : end + 2] == ["per", "cent"] else (value, end)


def _part(tokens: Sequence[Fraction | str], place: int) -> tuple[Fraction | None, int]:
    """The fraction that begins here, such as `a third`, `three-fourths`, `half a million`, if any; and the place after it."""
    word = tokens[place] if place < len(tokens) else ""
    count, end = (Fraction(1), place + 1) if word in ("a", "an") else _number(tokens, place)
    if word in _PARTS and tokens[place + 1 : place + 2] == ["of"]:
        return Fraction(1, _PARTS[str(word)]), place + 1
    named = str(tokens[end]) if count is not None and end < len(tokens) else ""
    size = _PARTS.get(named if count == 1 else named.removesuffix("s") if named.endswith("s") else "")
    if count is not None and size and count < size:
        return count / size, end + 1
    half = end if count == 1 and named == "half" else place
    if tokens[half : half + 1] != ["half"]:
        return None, place
    behind = half + 1 + (tokens[half + 1 : half + 2] in (["a"], ["an"]))
    scale = _SCALES.get(str(tokens[behind])) if behind < len(tokens) else None
    return (Fraction(scale, 2), behind + 1) if scale else (Fraction(1, 2), half + 1)


def _number(tokens: Sequence[Fraction | str], place: int) -> tuple[Fraction | None, int]:
    """The number in figures or words that begins here, if any, and the place after it; `a hundred` and `hundred` are 100."""
    first = tokens[place] if place < len(tokens) else ""
    total, current = Fraction(0), None
    if isinstance(first, Fraction):
        current, place = first, place + 1
        while (scale := _SCALES.get(str(tokens[place])) if place < len(tokens) else None) is not None:
            current, place = current * scale, place + 1
        return current, place
    if first in ("a", "an") and _SCALES.keys() & set(tokens[place + 1 : place + 2]):
        current, place = Fraction(1), place + 1
    elif first in _SCALES:
        current = Fraction(1)
    while place < len(tokens):
        word = str(tokens[place])
        if word in _NAMED:
            tens = current is not None and current % 100 >= 20 and current % 10 == 0 and _NAMED[word] < 10
            if current is not None and not tens and current % 100 != 0:
                break  # `five six` are two numbers
            current = (current or Fraction(0)) + _NAMED[word]
        elif word in _SCALES and current is not None:
            if _SCALES[word] <= 100:
                current *= _SCALES[word]
            else:
                total, current = total + current * _SCALES[word], Fraction(0)
        elif word != "and" or current is None or current % 100 or not _NAMED.keys() & set(tokens[place + 1 : place + 2]):
            break  # `two hundred and fifty` is one number, `five and six` are two
        place += 1
    return (None, place) if current is None else (total + current, place)


def _listed(numbers: frozenset[Fraction]) -> str:
    return ", ".join(str(number) for number in sorted(numbers)[:3])
