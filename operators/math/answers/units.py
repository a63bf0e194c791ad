"""Reads the unit after a number in a normal spelling: cm2, cm^2, sq cm and square centimeters are the same."""

from __future__ import annotations

import re
from fractions import Fraction

_SPELLINGS = {
    "m": "meter", "cm": "centimeter", "mm": "millimeter", "km": "kilometer", "in": "inch", "ft": "foot", "feet": "foot",
    "yd": "yard", "mi": "mile", "g": "gram", "kg": "kilogram", "mg": "milligram", "lb": "pound", "lbs": "pound", "oz": "ounce",
    "s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "l": "liter", "L": "liter",
    "ml": "milliliter", "mL": "milliliter", "usd": "dollar", "USD": "dollar", "inches": "inch", "litre": "liter",
    "metre": "meter", "deg": "degree", "people": "person", "children": "child", "sq": "square", "cu": "cubic",
    "kilometre": "kilometer", "centimetre": "centimeter", "millimetre": "millimeter", "millilitre": "milliliter",
    "rad": "radian", "wk": "week", "yr": "year", "yrs": "year", "EUR": "euro", "GBP": "pound sterling", "¢": "cent",
}  # fmt: skip
_RATES = {"mph": "mile per hour", "kph": "kilometer per hour", "kmh": "kilometer per hour", "kmph": "kilometer per hour"}
CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee"}
_MEASURES = frozenset({*_SPELLINGS.values(), *_RATES.values(), *CURRENCIES.values(), "day", "week", "month", "year", "dozen"})
_NOT_A_UNIT = re.compile(
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|hal(?:f|ves)|thirds?|fourths?|quarters?|fifths?|sixths?|sevenths?"
    r"|eighths?|ninths?|tenths?|hundredths?|thousandths?|squared|cubed|factorial|repeating|recurring|times|plus|minus|divided|over"
    r"|less|more|fewer|short|below|above|under|out|mod|modulo|sin|cos|tan|log|ln|exp|sqrt|pi|and|or|to|not|than|choose|by|from|if"
    r"|when|for|approx|approximately|factor|with|without|remainder|base|per\s*$|of|is|are|was|bn|mn|mil|tens?|ones?|pairs?"
    r"|lakhs?|crores?|grand|score|gross|kilo|mega|myriads?|am|pm|a\.m|p\.m|st|nd|rd|th|percentage|points?|[xyznie])s?\b",
    re.IGNORECASE,
)
_COMMAND = r"\\(?:text|mathrm|mbox|textbf|textrm|textit|operatorname|rm) ?"
_PIECE = rf"(?:{_COMMAND}\{{[A-Za-z ./^23-]*\}}|[A-Za-z]+\.?|¢)(?: ?\^ ?(?:\{{ ?[23] ?\}}|[23])|[23])?"
_TAIL = re.compile(rf"(?:(?<=[\d)}}!])|(?<=\\pi))(?P<gap> ?)(?P<unit>{_PIECE}(?:(?: ?/ ?| |-){_PIECE})*)$")
_TEMPERATURE = re.compile(rf"\^\{{\\circ\}} ?(?:{_COMMAND}\{{)? ?([CF])\}}?$")
_WRAPPED = re.compile(rf"{_COMMAND}\{{([^{{}}]*)\}}")
_POWER = re.compile(r" ?\^ ?\{? ?([23]) ?\}?|(?<=[A-Za-z])([23])(?![0-9])")
_MOST_WORDS = 5
_FACTORS = frozenset(
    [10**power for power in range(1, 10)] + [3, 7, 12, 16, 24, 36, 52, 60, 365, 1440, 1760, 3600, 5280, 86400, 144]
)


def split_unit(text: str) -> tuple[str, str] | None:
    """(text of the number, unit); None if there is no unit.

    Raises:
        ValueError: the words after the number change it ("5 million", "5 less than x") or are not understood.
    """
    if found := _TEMPERATURE.search(text):
        return text[: found.start()], f"degree {found[1].lower()}"
    found = _TAIL.search(text)
    if not found:
        return None
    wrapped, words = "\\" in found["unit"], unit(found["unit"])
    raw = found["unit"].strip()
    known = all(word in _MEASURES or word in ("square", "cubic", "per", "degree") for word in words.split())
    if len(raw) == 1 and not (found["gap"] and raw in _SPELLINGS) and raw != "¢":
        if raw in "kKMB":
            raise ValueError("a scale")
        return None  # 5m is an expression
    if _NOT_A_UNIT.search(_WRAPPED.sub(r"\1", found["unit"])) or len(words.split()) > _MOST_WORDS:
        raise ValueError("no unit")
    if not known and not wrapped and (len(raw) < 3 or not found["gap"]):
        return None  # ab is a product
    return text[: found.start()], words


def unit(text: str) -> str:
    """The normal spelling of a unit."""
    words = _WRAPPED.sub(r"\1", text).replace("/", " per ").replace(".", " ").replace("-", " ")
    words = _POWER.sub(lambda found: f"^{found[1] or found[2]} ", words)
    names = []
    for word in words.split():
        name, _, power = word.partition("^")
        name = _SPELLINGS.get(name) or _RATES.get(name.lower()) or _SPELLINGS.get(name.lower()) or name.lower()
        if name.endswith("s") and not name.endswith("ss"):
            name = _SPELLINGS.get(name[:-1], name[:-1])
        names.append({"2": "square ", "3": "cubic "}.get(power, "") + name)
    return " ".join(names).replace("squared", "square")


def is_measure(name: str) -> bool:
    """Whether a unit can be converted (meters or cents, but not apples)."""
    return any(word in _MEASURES for word in name.split())


def may_be_converted(one: Fraction | None, other: Fraction | None) -> bool:
    """Whether two numbers may be the same quantity in different units, such as 1.5 (hours) and 90 (minutes)."""
    if not one or not other:
        return False
    return {abs(one / other), abs(other / one)} & _FACTORS != set()
