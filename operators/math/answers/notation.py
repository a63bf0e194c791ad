"""Normalises the notation of mathematical texts, and reads plain numbers as exact fractions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from operators.characters import compatible

MOST_DIGITS = 1000
"""Longer numbers are compared as text, because Python refuses to convert more than 4,300 digits."""

_CHARACTERS = {
    "\u2212": "-", "\ufe63": "-", "\uff0d": "-", "\u2044": "/", "÷": "/", "\u2236": ":", "\u2019": "'", "\u2032": "'",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "≈": r"\approx ",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "°": r"^\circ ", "∈": r"\in ",
    "√": r"\sqrt ", "∅": r"\emptyset ", "∖": r"\setminus ", "⟨": r"\langle ", "⟩": r"\rangle ", "〈": r"\langle ",
    "〉": r"\rangle ", "∼": r"\sim ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "φ": r"\phi ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
}  # fmt: skip
_GREEK = {
    "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi",
    "Ω": "Omega", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "κ": "kappa", "μ": "mu", "ν": "nu", "ξ": "xi",
    "ρ": "rho", "σ": "sigma", "τ": "tau", "χ": "chi", "ψ": "psi", "ω": "omega",
}  # fmt: skip
_TRANSLATED = str.maketrans(_CHARACTERS | {letter: f"\\{name} " for letter, name in _GREEK.items()})
_BEFORE_NFKC = str.maketrans({
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "\u2033": "''", "\u2034": "'''",
})  # fmt: skip
_THOUSANDS = r"(?=\d{3}(?!\d))"
_THIN_SPACES = re.compile(rf"(?<=\d)[\u00a0\u2006-\u200a\u202f]{_THOUSANDS}")
_RANGE = re.compile(r"(?<=[\d)}%])[^\S\n]{0,2}[\u2013\u2014\u2015][^\S\n]{0,2}(?=[$\\]{0,2}\d)")
"""A dash between numbers is a range (5–7), not a minus sign."""
_DASHES = re.compile("[\u2012-\u2015]")
_BLANKS = re.compile(r"\s+")
_LATEX: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(rf"(?<=\d)(?:\{{,\}}|,?\\!|\\[,;: ]|~){_THOUSANDS}"), ""),
    (re.compile(r"\\(?:left|right|big|Big|bigl|bigr|Bigl|Bigr|displaystyle|!)(?![A-Za-z])(?:\.(?!\d))?"), ""),
    (re.compile(r"(?<![\w}])~ ?(?=\$?\d)"), r"\\approx "),
    (re.compile(r"(?<!\\)\\[,;: ]|(?:(?<=[\w.,)}$%])|(?<=(?:rm|xt|bf|it)\{))~(?=[\w\\({$])|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"(?<=[\d}]) ?(?:per ?cent|pct|\\text\{ ?per ?cent ?\})(?![A-Za-z])", re.IGNORECASE), "%"),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"(?<!\\)\\[()\[\]]|\$\$"), "$"),
    (re.compile(r"\^ ?(?:\\circ(?![A-Za-z])|\{ ?\\circ ?\}|\\degree(?![A-Za-z]))|\\degree(?![A-Za-z])"), r"^{\\circ}"),
    (re.compile(r"\^ ?(?:\\prime|\{ ?(?:\\prime ?){1,4}\})"), lambda found: "'" * found[0].count("prime")),
]

_UNSIGNED = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
NUMBER = re.compile(rf"{_UNSIGNED}(?:[eE][+-]?[0-9]+)?(?: ?/ ?[0-9]+)?")
"""A number without its sign, in a normalised text."""
_DIGITS = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_PLAIN = re.compile(
    rf"(?P<top>{_UNSIGNED})"
    r"(?:[eE](?P<e>[+-]?\d+)| ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?(?:(?P<p>[+-]?\d)|\{ ?(?P<q>[+-]?\d+) ?\}|(?P<r>\d+)))?"
    r"(?: ?/ ?(?P<bottom>\d+))?"
)
_FRACTION = re.compile(
    r"(?:(?P<whole>\d+) ?)?\\frac ?(?:\{ ?(?P<a>\d+) ?\}|(?P<c>\d)) ?(?:\{ ?(?P<b>\d+) ?\}|(?P<d>\d))"
    r"|(?P<whole2>\d+) (?P<a2>\d+) ?/ ?(?P<b2>\d+)"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar) ?(?:\{(\d+)\}|(\d))")
_GROUPED = re.compile(r"(-?)(\d+)((?:[.,' ]\d+)+)")


def normalise(text: str) -> str:
    """The text with LaTeX for mathematical characters, ASCII digits and minus signs, and without invisible characters, LaTeX
    thousands separators and spacing commands, and bold marks. A run of blanks becomes one blank or line break. Stripped.

    Takes linear time. A dash between two numbers becomes `\\range`.
    """
    if not text.isascii():
        text = _THIN_SPACES.sub("", text).translate(_BEFORE_NFKC)
        text = compatible(_DASHES.sub("-", _RANGE.sub(r"\\range ", text))).translate(_TRANSLATED)
        text = "".join(sign for sign in text if sign in "\n\t" or unicodedata.category(sign) not in ("Cf", "Cc"))
    # Collapse blanks, so that no later pattern backtracks in a run of them.
    text = _BLANKS.sub(_one_blank, text)
    for pattern, put in _LATEX:
        text = pattern.sub(put, text)
    return _BLANKS.sub(_one_blank, _without_bold(text)).strip()


def as_number(text: str) -> Fraction | None:
    """The exact value of a plain number, else None: an integer, decimal, fraction, mixed number, repeating decimal, `1e6` or
    `1.5 \\times 10^3`, with thousands separators, a currency or % sign.

    The value of a percentage is its number: 25% is 25.
    """
    if len(text) > MOST_DIGITS:
        return None
    if _DIGITS.fullmatch(text):
        return Fraction(text)
    bare = re.sub(r"(?<!\.)\.$", "", normalise(text).strip("$ ")).removesuffix("%").removesuffix("\\").strip()
    sign = -1 if bare.startswith("-") else 1
    bare = re.sub(r"^\\?[$€£] ?", "", bare.removeprefix("-" if sign < 0 else "+").strip())
    if bare[:1] in ("-", "+"):
        return None
    if match := _PLAIN.fullmatch(bare):
        exponent = match["e"] or match["p"] or match["q"] or "0"
        if match["r"] or len(exponent.lstrip("+-")) > 3 or (match["bottom"] and not int(match["bottom"])):
            return None  # 10^23 is 10 squared and a 3; 1e99999 has too many digits
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
            return None  # 2 5/3 is not a mixed number: it may be a product
        return sign * (int(whole or 0) + Fraction(top, bottom))
    return None


def grouped_readings(text: str) -> frozenset[Fraction]:
    """The possible values of digits separated by points, commas, apostrophes or blanks, in the notation of any country.

    1,234 is 1234 or 1.234; 1,00,000 is 100000; 1.234,5 is 1234.5. Empty if there is no such number.
    """
    if len(text) > MOST_DIGITS or not (match := _GROUPED.fullmatch(text.strip("$ "))):
        return frozenset()
    sign = -1 if match[1] else 1
    separators, groups = re.findall(r"[.,' ]", match[3]), [match[2], *re.split(r"[.,' ]", match[3])[1:]]
    found: set[Fraction] = set()
    if len(set(separators)) == 1 and len(groups[-1]) == 3 and all(2 <= len(group) <= 3 for group in groups[1:]):
        found.add(Fraction("".join(groups)))
    if separators[-1] in ".," and separators[-1] not in separators[:-1] and len(set(separators[:-1])) <= 1:
        found.add(Fraction("".join(groups[:-1]) + "." + groups[-1]))
    return frozenset(sign * number for number in found)


def _one_blank(run: re.Match[str]) -> str:
    lines = run[0].count("\n")
    return "\n\n" if lines > 1 else "\n" if lines else " "


def _without_bold(text: str) -> str:
    """The text without pairs of `**` or `__` around words; those of 2**3 stay."""
    for mark in ("**", "__"):
        if mark not in text:
            continue
        pieces = text.split(mark)
        kept = [pieces[0]]
        opened: int | None = None
        for before, after in pairwise(pieces):
            if "\n" in before:
                opened = None
            opens = not (before[-1:].isalnum() or before[-1:] in tuple(")]}_")) and after[:1].strip() != ""
            closes = before[-1:].strip() != "" and not (after[:1].isalnum() or after[:1] in tuple("([{_\\"))
            if opened is not None and closes:
                kept[opened] = ""
                kept += ["", after]
                opened = None
            else:
                opened = len(kept) if opens else opened
                kept += [mark, after]
        text = "".join(kept)
    return text
