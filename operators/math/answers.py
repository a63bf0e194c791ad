"""Finds the final answer in a solution and the bare gold answer in a file's text; reads plain numbers exactly."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

_MOST_DIGITS = 4000
"""Longer digits are compared as text: Python refuses to convert them."""

_SCRIPTS = {
    **dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n", strict=True)),
    **dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True)),
}
_CHARACTERS = {
    "\u2212": "-", "\u2013": "-", "\ufe63": "-", "\uff0d": "-", "\u2044": "/", "÷": "/", "\u2236": ":",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "≈": r"\approx ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "°": r"^\circ ", "∈": r"\in ", "√": r"\sqrt ",
}  # fmt: skip
_TRANSLATED = str.maketrans(_CHARACTERS)
_THOUSANDS = r"(?=\d{3}(?!\d))"
_CHARACTERS_TOGETHER: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞])"), " "),
    (re.compile(rf"(?<=\d)[\u00a0\u2006-\u200a\u202f]{_THOUSANDS}"), ""),
    (re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+"), lambda found: "^{" + "".join(_SCRIPTS[sign] for sign in found[0]) + "}"),
    (re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋]+"), lambda found: "_{" + "".join(_SCRIPTS[sign] for sign in found[0]) + "}"),
]
"""What NFKC would tear apart: 1½ would become 11/2, and 10² 102."""
_LATEX = [
    (re.compile(rf"(?<=\d)(?:\{{,\}}|,?\\!|\\[,;: ]|~){_THOUSANDS}"), ""),
    (re.compile(r"\\(?:left|right|big|Big|bigl|bigr|Bigl|Bigr|displaystyle|!)(?![A-Za-z])(?:\.(?!\d))?"), ""),
    (re.compile(r"(?<![\w}])~\s*(?=\$?\d)"), r"\\approx "),
    (re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"(?<=[\d}])\s*(?:per ?cent|pct|\\text\{\s*per ?cent\s*\})(?![A-Za-z])", re.IGNORECASE), "%"),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"(?<!\\)\\[()\[\]]|\$\$"), "$"),
    (re.compile(r"(?<!\w)(\*\*|__)(?=\S)([^*\n]+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})"), r"^{\\circ}"),
    (re.compile(r"\\sqrt\s+(\d+|[A-Za-z](?![A-Za-z]))"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
]

_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_DIGITS = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_NUMBER = re.compile(rf"{_UNSIGNED}(?:[eE][+-]?\d+)?(?:\s*/\s*\d+)?")
_PLAIN = re.compile(
    rf"(?P<top>{_UNSIGNED})"
    r"(?:[eE](?P<e>[+-]?\d+)|\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:(?P<p>[+-]?\d)|\{\s*(?P<q>[+-]?\d+)\s*\}|(?P<r>\d+)))?"
    r"(?:\s*/\s*(?P<bottom>\d+))?"
)
_FRACTION = re.compile(
    r"(?:(?P<whole>\d+)\s*)?\\frac\s*(?:\{\s*(?P<a>\d+)\s*\}|(?P<c>\d))\s*(?:\{\s*(?P<b>\d+)\s*\}|(?P<d>\d))"
    r"|(?P<whole2>\d+)\s+(?P<a2>\d+)\s*/\s*(?P<b2>\d+)"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*(?:\{(\d+)\}|(\d))")

_JOINED = re.compile(r"[\s$]*(?:,|;|,?\s*(?:and|or)|\\text\s*\{\s*(?:and|or)\s*\})[\s$]*(?:\w+\s*=\s*)?", re.IGNORECASE)
_STATED = re.compile(r"\banswer\b(?:\s+to\b[^.:\n]{0,80})?\s*(?:is\b|:|=)\s*:?\s*", re.IGNORECASE)
_CLAUSE = re.compile(r"[.;!?](?=\s|$)|,(?=\s)(?!\s*(?:\d|and\b|or\b|[a-z]\s*=))|\b(?:because|since|as|which|so)\b|\n\s*\n")
_HEDGED = re.compile(
    r"\b(?:not|cannot|never|neither|nor|than|least|most|about|approximately|around|nearly|almost|roughly|between|except|minus"
    r"|plus|negative)\b|n't\b|\\(?:approx|pm|ne|le|ge)\b|[<>~]|\.\.\.|\d\s*(?:and|or|to)\s*[-$]*$",
    re.IGNORECASE,
)
_SCALED = re.compile(
    r"\s*(?:\.\.\.|(?:and|or|to)\s+(?:a|\$?\d)|[-\s](?:"
    r"(?:hundred|thousand|million|billion|trillion|dozen|half|halve|third|fourth|quarter|fifth|sixth|seventh|eighth|ninth|tenth"
    r"|hundredth|thousandth)s?\b|(?:squared|cubed|factorial|repeating|recurring|plus|minus|divided|mod)\b"
    r"|(?:times|over|out|below|above|under)\b[a-z ]*\d|(?:less|more|fewer)\s+than\b))",
    re.IGNORECASE,
)
_MATH = re.compile(r"\$(?![\s$])([^$\n]{1,300}?)(?<!\s)\$(?!\d)")
_NOT = re.compile(r"(?:\bnot|n't)\b[^.\n]{0,20}$", re.IGNORECASE)


def gold_answer(text: str) -> str:
    """The bare gold answer of a file's text: what its last \\boxed{} holds (MATH), what follows its last `####` (GSM8K), or
    the text itself; stripped.
    """
    return (_boxed(text) or text.rpartition("####")[2]).strip()


def final_answer(solution: str) -> str | None:
    """The answer that a solution ends in, normalised: the last \\boxed{} (several, where only "and", "or" or a comma is
    between them), else the last line's `####`, else what follows "the answer is" or "Answer:", else the last number.

    None when there is none of these, and when the words around it leave open what is meant ("is not 5", "more than 5").
    """
    text = normalise(solution)
    if re.search(r"\\f?boxed", text):
        return _boxed(text) or None
    lines = text.split("\n")
    last = lines[-1].strip()
    stated = list(_STATED.finditer(text))
    if last.startswith("####"):
        tail = last.lstrip("#").strip()
        return _said(tail[match.end() :]) if (match := _STATED.match(tail)) else tail or None
    if stated:
        return _said(text[stated[-1].end() :])
    return _last_number(text)


def normalise(text: str) -> str:
    """NFKC with ASCII minus signs, LaTeX for mathematical characters; no invisible ones, thousands separators of LaTeX,
    spacing commands, bold marks. Stripped.
    """
    if not text.isascii():
        for pattern, by in _CHARACTERS_TOGETHER:
            text = pattern.sub(by, text)
        text = unicodedata.normalize("NFKC", text).translate(_TRANSLATED)
        text = "".join(sign for sign in text if sign in "\n\t" or unicodedata.category(sign) not in ("Cf", "Cc"))
    for pattern, put in _LATEX:
        text = pattern.sub(put, text)
    return text.strip()


def as_number(text: str) -> Fraction | None:
    """A plain number exactly, else None: an integer, decimal, fraction, mixed number, repeating decimal, `1e6` or
    `1.5 \\times 10^3`, with thousands separators, a currency or % sign.

    A percentage is its number of per cents: 25% is 25.
    """
    if len(text) > _MOST_DIGITS:
        return None
    if _DIGITS.fullmatch(text):
        return Fraction(text)
    bare = re.sub(r"(?<!\.)\.$", "", normalise(text).strip("$ ")).removesuffix("%").removesuffix("\\").strip()
    sign = -1 if bare.startswith("-") else 1
    bare = re.sub(r"^\\?[$€£]\s*", "", bare.removeprefix("-" if sign < 0 else "+").strip())
    if bare[:1] in ("-", "+"):
        return None
    if match := _PLAIN.fullmatch(bare):
        exponent = match["e"] or match["p"] or match["q"] or "0"
        if match["r"] or len(exponent.lstrip("+-")) > 4 or (match["bottom"] and not int(match["bottom"])):
            return None  # 10^23 is 10 squared and a 3; 1e99999 is not worth its digits
        number = Fraction(match["top"].replace(",", "") + f"e{exponent}")
        return sign * number / int(match["bottom"] or 1)
    if match := _REPEATING.fullmatch(bare):
        once, again = match[2], match[3] or match[4]
        nines = int("9" * len(again))
        return sign * (int((match[1] or "0") + once) + Fraction(int(again), nines)) / int("1" + "0" * len(once))
    if match := _FRACTION.fullmatch(bare):
        whole = match["whole"] or match["whole2"]
        top, bottom = (int(match[a] or match[b] or match[c]) for a, b, c in (("a", "c", "a2"), ("b", "d", "b2")))
        if not bottom or (whole and top >= bottom):
            return None  # 2 5/3 is no mixed number: it may be a product
        return sign * (int(whole or 0) + Fraction(top, bottom))
    return None


def _boxed(text: str) -> str | None:
    """What the last box holds, with the boxes that are joined to it; None without a box, "" when its brace is left open."""
    boxes: list[str] = []
    before = len(text)
    while match := _last(r"\\f?boxed\s*", text[:before]):
        inside = _braces(text, match.end())
        if inside is None:
            inside = "" if text[match.end() : match.end() + 1] == "{" else text[match.end() : match.end() + 1]
            end = len(text)
        else:
            end = match.end() + len(inside) + 2
        if boxes and not _JOINED.fullmatch(text[end:before]):
            break
        if _NOT.search(text[: match.start()]):
            return ""
        boxes.append(inside.strip())
        before = match.start()
    return ", ".join(reversed(boxes)) if boxes else None


def _last(pattern: str, text: str) -> re.Match[str] | None:
    found = None
    for found in re.finditer(pattern, text):  # noqa: B007
        pass
    return found


def _braces(text: str, start: int) -> str | None:
    """What is between the brace at `start` and its partner."""
    depth = 0
    for place in range(start, len(text)):
        sign = text[place]
        if place and text[place - 1] == "\\":
            continue
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[start + 1 : place] if sign == "}" else None
    return None


def _said(rest: str) -> str | None:
    """The answer that a sentence begins with, or the only number in it."""
    rest = rest.lstrip("*_ \n")
    if (match := _MATH.match(rest)) and not re.match(r"\s*(?:,|and\b|or\b|to\b|[-+*/=])", rest[match.end() :]):
        return match[1].strip()
    clause = _CLAUSE.split(rest.partition("\n")[0])[0].strip().strip("*").strip()
    clause = re.sub(r"\$(?!\d)|(?<=[\d}])\$", "", clause).strip()
    if "=" in clause and not re.match(r"\S{1,9}\s*=[^=]*$", clause):
        clause = clause.rpartition("=")[2].strip()
    if not clause:
        return None
    numbers = list(_NUMBER.finditer(clause))
    if numbers and re.match(r"[A-Za-z]{2,} ", clause):
        # A sentence about a number: one that is clearly the answer, or none.
        return _bare(clause, numbers[0]) if len(numbers) == 1 and not _HEDGED.search(clause) else None
    return None if re.match(r"(?:not|never|no\s+\w|in)\b", clause, re.IGNORECASE) else clause


def _last_number(text: str) -> str | None:
    """The last number or formula in dollar signs, unless the words around it leave open what is meant."""
    found = _last(_NUMBER.pattern, text)
    formulas = list(_MATH.finditer(text))
    if formulas and (found is None or formulas[-1].end() >= found.end()) and re.search(r"\d|\\", formulas[-1][1]):
        start, end, answer = formulas[-1].start(), formulas[-1].end(), formulas[-1][1].strip()
        answer = answer.rpartition("=")[2].strip()
    elif found is not None:
        start, end = found.span()
        answer = _bare(text, found) or ""
    else:
        return None
    sentence = re.split(r"[.;!?](?=\s)|\n", text[:start])[-1]
    if (result := sentence.rpartition("=")[2]) != sentence and _NUMBER.search(result):
        return None  # "100 / 20 = 5 hours for 100 pages" does not end in its answer
    before = re.split(r",(?=\s)|=", sentence)[-1]
    return None if not answer or _HEDGED.search(before) or _SCALED.match(text[end:]) else answer


def _bare(text: str, number: re.Match[str]) -> str | None:
    """A number with its sign and per cent; None when it is a part of something: `10^2`, `x12`, `3 + 4`."""
    before, after = text[: number.start()], text[number.end() :]
    sign = re.search(r"(?:^|[\s=$(:])(-\s?)\$?$", before)
    negative = bool(sign) and not re.search(r"[\w)}]\s+-\s+\$?$", before)
    if sign and negative:
        before = before[: sign.start(1)]
    if re.search(r"[\w.,]$|[-+*/^_\\({\[<>][\s$]*$", before):
        return None
    if re.match(r"\w|[.,]\d|\s*[*^/+_=({]|\s*\\(?!%)|\s*[-:]\s*\d", after) or _SCALED.match(after):
        return None
    percent = "%" if re.match(r"\s*\\?%", after) else ""
    return ("-" if negative else "") + number[0] + percent
