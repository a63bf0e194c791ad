"""Reads what form an answer has (a value with its unit, words, a tuple, a set, a ratio, a relation), and compares forms.

math-verify strips units, takes a tuple for an interval and the last side of any equation: forms are told apart here, so
that it only ever sees two single expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from operators.math.answers import as_number, normalise
from operators.records import Verdict

Kind = Literal["value", "words", "bracket", "set", "union", "ratio", "relation"]
Same = Callable[[str, str], Verdict | None]
"""Compares two single expressions; None where it cannot say."""

_RELATION = re.compile(r"\\(?:le|leq|ge|geq|ne|neq|lt|gt|in|notin|subset|to|equiv|sim|mid)(?![A-Za-z])|[<>]|!=")
_NAME = re.compile(
    r"(?!(?:sin|cos|tan|log|ln|exp|sqrt)\b)(?:\\(?:angle|triangle|alpha|beta|gamma|theta|lambda|mu|phi)\s*)?(?:[A-Z]{1,3}|[A-Za-z]"
    r"|(?:[A-Za-z]{3,}\s*){1,5}|\\(?:alpha|beta|gamma|theta|lambda|mu|phi))?'*(?:_(?:\w|\{\w+\}))?(?:\([\w, ]{1,5}\))?"
)
_OPERATORS_ONLY = re.compile(r"(?:[\d\s.,+\-*/^(){}$%]|\\(?:frac|sqrt|times|cdot|div|pi)(?![A-Za-z]))+")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|operatorname|mbox|rm|text(?:normal|rm))\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[-' ]+[^\W\d_]+)*")
_AND = re.compile(r"\s*(?:,?\s*\b(?:and|or)\b)\s*", re.IGNORECASE)
_MEMBER = re.compile(r"\s*[A-Za-z]\s*\\in(?![A-Za-z])")

_UNITS = {
    "m": "meter", "cm": "centimeter", "mm": "millimeter", "km": "kilometer", "in": "inch", "ft": "foot", "feet": "foot",
    "yd": "yard", "mi": "mile", "g": "gram", "kg": "kilogram", "mg": "milligram", "lb": "pound", "lbs": "pound", "oz": "ounce",
    "s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "l": "liter", "L": "liter",
    "ml": "milliliter", "mL": "milliliter", "mph": "mile per hour", "usd": "dollar", "cents": "cent", "inches": "inch",
    "litre": "liter", "metre": "meter", "deg": "degree", "people": "person", "children": "child",
    "sq": "square", "cu": "cubic", "kilometre": "kilometer", "centimetre": "centimeter", "millimetre": "millimeter",
}  # fmt: skip
_SHORT = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_POWER = r"(?:\s*\^\s*(?:\{\s*[23]\s*\}|[23]))?"
_VALUE = r"(?P<value>.*?[\d})])"
_WITH_UNIT = [
    re.compile(_VALUE + r"\s*(?P<unit>\^\{\\circ\}\s*(?:[CF]|\\(?:text|mathrm)\s*\{[CF]\})?)"),
    re.compile(_VALUE + rf"\s*\\(?:text|mathrm|mbox|textbf)\s*\{{(?P<unit>[A-Za-z ./-]*)\}}(?P<power>{_POWER})"),
    re.compile(_VALUE + rf"(?P<gap>\s*)(?P<unit>(?:{_SHORT})(?:/(?:{_SHORT}))?)(?P<power>{_POWER})"),
    re.compile(_VALUE + rf"\s+(?P<unit>(?:[A-Za-z]{{3,}}|(?:{_SHORT})\b)[A-Za-z /-]*)(?P<power>{_POWER})"),
]
_CURRENCY = re.compile(r"(?P<sign>-?)\s*\\?(?P<unit>[$€£])\s*(?P<value>.+)")
_NO_UNIT = re.compile(
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|hal(?:f|ves)|thirds?|fourths?|quarters?|fifths?|sixths?|sevenths?"
    r"|eighths?|ninths?|tenths?|hundredths?|thousandths?|squared|cubed|factorial|repeating|recurring|times|plus|minus|divided|over"
    r"|less|more|fewer|short|below|above|under|out|mod|sin|cos|tan|log|ln|exp|sqrt|pi|and|or|to|not|than|choose|by|from|if|when|for"
    r"|approx|approximately|factor|[xyznie])s?\b",
    re.IGNORECASE,
)
_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_COUNTED = dict(zip([*_ONES, *_TENS], [*range(20), *range(20, 100, 10)], strict=True))
_SYNONYMS = {"true": "yes", "false": "no"}


@dataclass(frozen=True)
class Form:
    """An answer read: its kind, the expression of a single one or the parts of several, and what is around it."""

    kind: Kind
    text: str = ""
    parts: tuple[Form, ...] = ()
    name: str = ""
    unit: str = ""


def read(text: str) -> Form | None:
    """The form of an answer; None where there is nothing to read."""
    bare = _undressed(normalise(text))
    if not bare:
        return None
    if as_number(bare) is not None and not _CURRENCY.match(bare):
        return Form("value", bare)
    if member := _MEMBER.match(bare):
        bare = bare[member.end() :].strip()
    pieces = _split(bare, r"\\cup(?![A-Za-z])")
    if len(pieces) > 1:
        return _several("union", pieces)
    if (inside := _inside(bare)) is not None:
        opening, closing, content = inside
        pieces = _split(content, ",", "[,;]")
        if opening == "\\{":
            return _several("set", pieces)
        if len(pieces) > 1:
            return _several("bracket", pieces, opening + closing)
        if opening == "(":
            return read(content)
    pieces = [piece for part in _split(bare, r",(?!\d{3}(?!\d))|;") for piece in _AND.split(_and(part)) if piece.strip()]
    if len(pieces) > 1:
        return _several("set", pieces)
    if bare.count("\\pm") == 1:
        return _several("set", [bare.replace("\\pm", "+"), bare.replace("\\pm", "-")])
    return _single(bare)


def compare(gold: Form, given: Form, same: Same) -> Verdict | None:
    """Whether two forms say the same, with `same` for single expressions; None where that cannot say.

    Not called wrong but unparsed, because two readings are possible: the same number in another unit, a ratio against a
    fraction, a list against a tuple, words against other words or a value, a relation against a value.
    """
    if gold.name and given.name and gold.name != given.name:
        return "wrong" if len(gold.name) == len(given.name) == 1 else "unparsed"
    if gold.kind == "value" and given.kind == "value":
        return _values(gold, given, same)
    if gold.kind == "words" and given.kind == "words":
        return _words(gold.text, given.text)
    if gold.kind == "relation" and given.kind == "relation":
        return same(gold.text, given.text)
    kinds = {gold.kind, given.kind}
    if kinds == {"words", "value"} and len(gold.text if gold.kind == "words" else given.text) == 1:
        return same(gold.text, given.text)  # a variable
    if kinds & {"words", "relation"}:
        return "unparsed"
    if "ratio" in kinds:
        return _ratios(gold, given, same)
    if gold.kind == "bracket" and given.kind == "bracket":
        return "wrong" if gold.text != given.text else _in_order(gold, given, same)
    if kinds == {"bracket", "set"}:
        return "unparsed" if len(gold.parts) == len(given.parts) else "wrong"
    if "bracket" in kinds:
        return "wrong"
    return _in_any_order(gold.parts or (gold,), given.parts or (given,), same)


def _undressed(text: str) -> str:
    """Without what does not belong to the answer: dollar signs and words of LaTeX around it, quotes, a full stop."""
    while True:
        before = text
        text = text.strip().strip("*\"'`").strip()
        text = re.sub(r"(?<!\.)\.$", "", text)
        if len(text) > 1 and text.startswith("$") and text.endswith("$") and text.count("$") == 2:
            text = text[1:-1]
        if match := _TEXT.fullmatch(text):
            text = match[1]
        if (
            text.startswith("{")
            and text.endswith("}")
            and _closing(text) == len(text) - 1
            and len(_split(text[1:-1], ",")) == 1
        ):
            text = text[1:-1]
        if text == before:
            return text.removesuffix("\\").strip()


def _single(text: str) -> Form | None:
    """One value, ratio, relation or word."""
    text = re.split(r"\\approx(?![A-Za-z])", text)[0].strip() or text
    sides = [side.strip() for side in re.split(r"(?<![<>!=\\])=(?!=)", text)]
    if len(sides) > 1:
        if not sides[-1]:
            return None
        first = _unwrapped(sides[0])
        if _NAME.fullmatch(first) and first:
            form = read(sides[-1])
            if form is None or form.name:
                return None
            return Form(form.kind, form.text, form.parts, re.sub(r"[\s{}]", "", first), form.unit)
        if all(_OPERATORS_ONLY.fullmatch(side) for side in sides[:-1]):
            return read(sides[-1])
        return Form("relation", text)
    text = sides[0]
    if _RELATION.search(text):
        return Form("relation", text)
    ratio = text.split(":")
    if len(ratio) > 1:
        parts = [part.strip() for part in ratio]
        return (
            _several("ratio", parts) if all(as_number(part) is not None for part in parts) else Form("words", text.casefold())
        )
    plain = re.sub(r"\s+", " ", _unwrapped(text)).strip()
    if _WORDS.fullmatch(plain) and not re.search(r"\b\w\s*-|-\s*\w\b", plain):  # p - q is a difference
        return _word(plain)
    return _with_unit(text)


def _word(text: str) -> Form:
    bare = re.sub(r"^(?:the|an?)\s+(?=\w)", "", text, flags=re.IGNORECASE)
    if len(bare) == 1:
        return Form("words", bare)
    lower = bare.casefold()
    tens, _, ones = lower.replace("-", " ").partition(" ")
    if tens in _COUNTED and (not ones or (tens in _TENS and ones in _ONES[1:10])):
        return Form("value", str(_COUNTED[tens] + _COUNTED.get(ones, 0)))
    return Form("words", _SYNONYMS.get(lower, lower))


def _with_unit(text: str) -> Form | None:
    """A value without its unit; what looks like a unit but changes the number, as "5 million", cannot be read."""
    if match := _CURRENCY.fullmatch(text):
        form = read(match["sign"] + match["value"])
        return form and replace(form, unit=form.unit or {"$": "dollar", "€": "euro", "£": "pound"}[match["unit"]])
    for pattern in _WITH_UNIT:
        match = pattern.fullmatch(text)
        if match is None or (match.groupdict().get("gap") == "" and len(match["unit"]) == 1):
            continue  # `5m` is an expression
        if _NO_UNIT.search(match["unit"]) or len(match["unit"].split()) > 4:
            return None
        return Form("value", match["value"].strip(), unit=_unit(match["unit"] + (match.groupdict().get("power") or "")))
    return None if _TEXT.search(text) else Form("value", text)


def _unit(words: str) -> str:
    """A unit in one spelling: "cm" and "centimeters" are the same."""
    words = _unwrapped(words).replace("^{\\circ}", "degree ")
    words = re.sub(r"\s*\^\s*\{?\s*([23])\s*\}?", r"^\1", words.replace("/", " per ")).strip()
    names = []
    for word in words.split():
        name, _, power = word.partition("^")
        name = _UNITS.get(name) or _UNITS.get(name.casefold()) or name.casefold()
        if name.endswith("s") and not name.endswith("ss"):
            name = _UNITS.get(name[:-1], name[:-1])
        names.append({"2": "square ", "3": "cubic "}.get(power, "") + name)
    return " ".join(names).replace("squared", "square")


def _several(kind: Kind, pieces: list[str], text: str = "") -> Form | None:
    parts = [read(piece) for piece in pieces]
    return Form(kind, text, tuple(part for part in parts if part)) if all(parts) else None


def _values(gold: Form, given: Form, same: Same) -> Verdict | None:
    if gold.unit and given.unit and gold.unit != given.unit:
        return "unparsed"
    if "degree" in (gold.unit, given.unit) and gold.unit != given.unit and "\\pi" in gold.text + given.text:
        return "unparsed"  # degrees against radians
    return _percentages(gold.text, given.text, same)


def _percentages(gold: str, given: str, same: Same) -> Verdict | None:
    """25% is 0.25, and files leave the sign out (GSM8K): a bare 25 is 25%, too. A bare 0.25 may be 0.25%: unparsed."""
    signs = [re.search(r"\\?%\s*$", text) for text in (gold, given)]
    bare = [text[: sign.start()] if sign else text for text, sign in zip((gold, given), signs, strict=True)]
    if bool(signs[0]) == bool(signs[1]):
        return same(*bare)
    percent, plain = (as_number(text) for text in (bare if signs[0] else reversed(bare)))
    if percent is None or plain is None:
        return "unparsed"
    if percent == plain * 100:
        return "correct"
    return "wrong" if percent != plain else "correct" if abs(plain) > 1 else "unparsed"


def _words(gold: str, given: str) -> Verdict:
    if gold == given:
        return "correct"
    single = " " not in gold + given and sorted(gold.casefold()) != sorted(given.casefold())
    return "wrong" if single else "unparsed"


def _ratios(gold: Form, given: Form, same: Same) -> Verdict | None:
    if gold.kind != given.kind:
        return "unparsed"
    verdict = _in_order(gold, given, same)
    if verdict == "wrong" and len(gold.parts) == len(given.parts):
        numbers = [(as_number(a.text), as_number(b.text)) for a, b in zip(gold.parts, given.parts, strict=True)]
        (a, b), *others = numbers
        if all(a * y == b * x for x, y in others):  # type: ignore[operator]
            return "unparsed"  # 6:8 is 3:4, but 1:30 is no 2:60
    return verdict


def _in_order(gold: Form, given: Form, same: Same) -> Verdict | None:
    if len(gold.parts) != len(given.parts):
        return "wrong"
    return _worst([compare(a, b, same) for a, b in zip(gold.parts, given.parts, strict=True)])


def _in_any_order(gold: tuple[Form, ...], given: tuple[Form, ...], same: Same) -> Verdict | None:
    if len(gold) != len(given):
        return "wrong"
    names = [{part.name for part in parts} for parts in (gold, given)]
    if {""} in names and max(map(len, names)) > 1:
        return _worst([compare(a, b, same) for a, b in zip(gold, given, strict=True)])  # "x=1, y=2" against "1, 2"
    left = list(given)
    verdicts: list[Verdict | None] = []
    for part in gold:
        found = [compare(part, other, same) for other in left]
        if "correct" in found:
            left.pop(found.index("correct"))
        verdicts.append(
            "correct" if "correct" in found else None if None in found else "unparsed" if "unparsed" in found else "wrong"
        )
    return _worst(verdicts)


def _worst(verdicts: list[Verdict | None]) -> Verdict | None:
    if "wrong" in verdicts:
        return "wrong"
    return None if None in verdicts else "unparsed" if "unparsed" in verdicts else "correct"


def _and(text: str) -> str:
    return re.sub(r"\\(?:text|mathrm|mbox)\s*\{\s*(and|or)\s*\}", r" \1 ", text)


def _unwrapped(text: str) -> str:
    return _TEXT.sub(r"\1", text)


def _split(text: str, pattern: str, again: str = "") -> list[str]:
    """Split at matches that are in no brackets."""
    pieces, depth, start = [], 0, 0
    separator = re.compile(again or pattern)
    place = 0
    while place < len(text):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0 and (match := separator.match(text, place)):
            pieces.append(text[start:place])
            start = place = match.end()
            continue
        place += 1
    return [piece.strip() for piece in [*pieces, text[start:]]]


def _closing(text: str) -> int:
    """Where the bracket that a text begins with is closed, by whatever closes it; -1 if nowhere."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and sign in ")]}":
            return place
    return -1


def _inside(text: str) -> tuple[str, str, str] | None:
    """Opening, closing and content of a text that is in brackets as a whole."""
    for opening, closings in (("\\{", ("\\}",)), ("{", ("}",)), ("(", (")", "]")), ("[", ("]", ")"))):
        for closing in closings:
            if text.startswith(opening) and text.endswith(closing) and _closing(text) == len(text) - 1:
                opened = "\\{" if opening == "{" else opening
                return opened, closing, text[len(opening) : len(text) - len(closing)]
    return None
