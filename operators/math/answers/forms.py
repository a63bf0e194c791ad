"""Parses answers: a value with its unit, words, a point or interval, a set, a matrix, a ratio, a relation.

An answer without a form, or with several, is None and is compared only as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from operators.math.answers.brackets import enclosed, split
from operators.math.answers.expressions import Node, UnreadableError, parse, variables
from operators.math.answers.notation import as_number, grouped_readings, normalise
from operators.math.answers.units import CURRENCIES, split_unit
from operators.math.answers.word_answers import unwrapped, word_form

FormKind = Literal[
    "value", "words", "bracket", "set", "union", "ratio", "relation", "matrix", "grouped", "approximation", "based"
]

_MOST_CHARACTERS = 2000
_MOST_DEPTH = 8

_NAME = re.compile(
    r"(?!(?:sin|cos|tan|log|ln|exp|sqrt)\b)(?:\\(?:angle|triangle) ?)?(?:[A-Z]{1,3}|[A-Za-z]|(?:[A-Za-z]{3,} ?){1,5}"
    r"|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega|rho|sigma))?'*(?: ?_ ?(?:\w|\{\w+\}))?(?: ?\([\w, ]{1,5}\))?"
)
_ONLY_NUMBERS = re.compile(r"(?:[\d\s.,+\-*/^(){}$%!]|\\(?:frac|sqrt|times|cdot|div|pi|binom)(?![A-Za-z])|x(?= ?\d))+")
_EQUALS = re.compile(r"(?<![<>!=\\:])=(?!=)")
_COMPARES = re.compile(r"\\(?:leqslant|leq|le|geqslant|geq|ge|lt|gt|neq|ne)(?![A-Za-z])|<=|>=|!=|<|>")
_OPERATORS = {
    "leqslant": "<=", "leq": "<=", "le": "<=", "geqslant": ">=", "geq": ">=", "ge": ">=", "lt": "<", "gt": ">",
    "neq": "!=", "ne": "!=",
}  # fmt: skip
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
_MEMBER = re.compile(r"([A-Za-z](?:_\d)?) ?\\in(?![A-Za-z]) ?")
_EMPTY = re.compile(r"\\(?:emptyset|varnothing)|\\\{ ?\\\}|\{ ?\}|(?:the )?(?:empty|null) set", re.IGNORECASE)
_REALS = re.compile(
    r"\\mathbb ?\{? ?R ?\}?|\\(?:R|Reals|reals)|(?:the )?(?:set of )?(?:all )?(?:the )?real(?:s| numbers)", re.IGNORECASE
)
_LABELLED = re.compile(r"\(?[A-Z]\) ?(?![-+*/^_=<>,)!']|\\(?:times|cdot|cup|le|ge|ne|in))\S|[A-H][.:] ?\S")
_BASED = re.compile(r"\(?([0-9A-F]+)\)?_ ?(?:\{ ?(?:\\text ?\{ ?)?(\d+|two|eight|ten|sixteen) ?\}?\}?|(\d))")
_MATRIX = re.compile(r"\\begin ?\{([pbB]?matrix)\}(.*)\\end ?\{\1\}", re.DOTALL)
_COMMA = re.compile(r",(?!\d{3}(?!\d))|;")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_JOIN = re.compile(r",? ?\b(and|or)\b ?", re.IGNORECASE)
_QUOTES = ("*", '"', "`", "'")
INFINITY = Node("constant", name="infinity")


@dataclass(frozen=True)
class Form:
    """A parsed answer.

    Args:
        kind: the kind of the answer.
        text: the words, the brackets ("(]"), the operator of a relation, the base, or the size of a matrix ("2x1").
        parts: the members, the two sides of a relation, or the approximated value and its approximation.
        name: the variable whose value the answer is (x in x = 5).
        unit: the unit of a value, in its normal spelling.
        node: the expression of a value.
    """

    kind: FormKind
    text: str = ""
    parts: tuple[Form, ...] = ()
    name: str = ""
    unit: str = ""
    node: Node | None = None


def read(text: str) -> Form | None:
    """The form of an answer; None if it has no certain reading, or more than 2,000 characters."""
    if len(text) > _MOST_CHARACTERS:
        return None
    try:
        return _read(normalise(text), 0)
    except UnreadableError:
        return None


def value_of(number: Fraction) -> Node:
    """A number as an expression."""
    return Node("number", value=number)


def _read(text: str, depth: int) -> Form:
    if depth > _MOST_DEPTH:
        raise UnreadableError("too deep")
    bare = _bare(text)
    if not bare:
        raise UnreadableError("nothing to read")
    number = as_number(bare)
    if number is not None and not any(sign in bare for sign in "%$€£¥₹"):
        return Form("value", bare, node=value_of(number))
    if number is None and grouped_readings(bare):
        return Form("grouped", bare, tuple(Form("value", each, node=value_of(Fraction(each))) for each in _listed_digits(bare)))
    if _EMPTY.fullmatch(unwrapped(bare)):
        return Form("set")
    if _REALS.fullmatch(unwrapped(bare)):
        return _interval("()", Node("negative", (INFINITY,)), INFINITY)
    if member := _MEMBER.match(bare):
        return _read(bare[member.end() :], depth + 1)
    for reader in (_union, _without, _matrix, _bracketed, _list):
        if (form := reader(bare, depth + 1)) is not None:
            return form
    if len(_PLUS_MINUS.findall(bare)) == 1:
        return Form("set", parts=tuple(_read(_PLUS_MINUS.sub(sign, bare).removeprefix("+"), depth + 1) for sign in "+-"))
    return _single(bare, depth + 1)


def _bare(text: str) -> str:
    """The answer without its surroundings: dollar signs and LaTeX words around it, quotes, a full stop."""
    while True:
        before = text
        text = text.strip()
        text = re.sub(r"(?<!\.)\.$", "", text)
        if len(text) > 2 and text[0] == text[-1] and text[0] in _QUOTES:
            text = text[1:-1]
        if len(text) > 1 and text.startswith("$") and text.endswith("$") and text.count("$") == 2:
            text = text[1:-1]
        text = unwrapped(text, whole=True)
        inside = enclosed(text)
        if (
            inside is not None
            and inside[0] == "{"
            and len(split(inside[2], re.compile("[,:|;]|\\\\mid"))) == 1
            and inside[2].strip()
        ):
            text = inside[2]
        if text == before:
            return text.removesuffix("\\").strip()


def _union(text: str, depth: int) -> Form | None:
    pieces = split(text, re.compile(r"\\cup(?![A-Za-z])"))
    if len(pieces) == 1:
        return None
    parts = tuple(_read(piece, depth) for piece in pieces)
    if all(part.kind == "set" for part in parts):
        return Form("set", parts=tuple(member for part in parts for member in part.parts))
    return Form("union", parts=tuple(inner for part in parts for inner in (part.parts if part.kind == "union" else (part,))))


def _without(text: str, depth: int) -> Form | None:
    """All numbers but one."""
    pieces = split(text, re.compile(r"\\(?:setminus|backslash)(?![A-Za-z])"))
    if len(pieces) == 1:
        return None
    whole, but = _read(pieces[0], depth), _read(pieces[1], depth)
    missing = but.parts[0].node if but.kind == "set" and len(but.parts) == 1 else None
    if len(pieces) > 2 or not _is_all(whole) or missing is None:
        raise UnreadableError("a difference of sets")
    return _all_but(missing)


def _is_all(form: Form) -> bool:
    ends = [part.node for part in form.parts]
    return form.kind == "bracket" and ends == [Node("negative", (INFINITY,)), INFINITY]


def _all_but(missing: Node, name: str = "") -> Form:
    low, high = _interval("()", Node("negative", (INFINITY,)), missing), _interval("()", missing, INFINITY)
    return Form("union", parts=(low, high), name=name)


def _interval(brackets: str, low: Node, high: Node, name: str = "") -> Form:
    return Form("bracket", brackets, (Form("value", node=low), Form("value", node=high)), name, "interval")


def _matrix(text: str, depth: int) -> Form | None:
    if not (found := _MATRIX.fullmatch(text)):
        return None
    rows = [split(row, re.compile("&")) for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[2].strip()) if row.strip()]
    if not rows or len({len(row) for row in rows}) != 1:
        raise UnreadableError("rows of different lengths")
    cells = tuple(_read(cell, depth) for row in rows for cell in row)
    return Form("matrix", f"{len(rows)}x{len(rows[0])}", cells)


def _bracketed(text: str, depth: int) -> Form | None:
    inside = enclosed(text)
    if inside is None:
        return None
    opening, closing, content = inside
    if opening in ("\\{", "{"):
        condition = split(content, re.compile(r":|\||\\mid(?![A-Za-z])|\\vert(?![A-Za-z])"))
        if len(condition) == 2:
            described = _read(condition[1], depth)
            if not (described.kind == "union" or (described.kind == "bracket" and described.unit == "interval")):
                raise UnreadableError("a set by its condition")
            return replace(described, name="")
        return Form("set", parts=tuple(_read(piece, depth) for piece in split(content, re.compile("[,;]"))))
    pieces = split(content, re.compile("[,;]"))
    if len(pieces) > 1:
        parts = tuple(_read(piece, depth) for piece in pieces)
        endless = any("infinity" in (part.name for part in _inner(part.node)) for part in parts)
        return Form(
            "bracket", opening + closing, parts, unit="interval" if endless or opening + closing in ("(]", "[)") else ""
        )
    return _read(content, depth) if opening == "(" and closing == ")" else None


def _inner(node: Node | None) -> Sequence[Node]:
    return [] if node is None else [node, *node.parts]


def _list(text: str, depth: int) -> Form | None:
    spelt = re.sub(r"\\(?:text|mathrm|mbox) ?\{ ?(and|or) ?\}", r" \1 ", text)
    pieces = [piece for part in split(spelt, _COMMA) for piece in _JOIN.split(part)[::2] if piece.strip()]
    if len(pieces) == 1:
        if len(split(spelt, _COMMA)) > 1 or _JOIN.search(spelt):
            raise UnreadableError("a list with a part that is missing")
        return None
    parts = tuple(_read(piece, depth) for piece in pieces)
    if len({part.kind for part in parts if part.kind in ("words", "value")}) > 1 and any(
        len(part.text) > 1 for part in parts if part.kind == "words"
    ):
        raise UnreadableError("numbers and words")
    ranges = [part for part in parts if part.kind in ("union", "relation") or part.unit == "interval"]
    if not ranges:
        return Form("set", parts=parts)
    joins = {found.lower() for part in split(spelt, _COMMA) for found in _JOIN.split(part)[1::2]}
    names = {part.name for part in parts}
    if joins != {"or"} or len(ranges) < len(parts) or len(names) > 1 or any(part.kind == "relation" for part in parts):
        raise UnreadableError("conditions that hold together")
    return Form("union", parts=parts, name=names.pop())


def _single(text: str, depth: int) -> Form:
    """One value, ratio, relation or word."""
    if _LABELLED.match(text) and not _BASED.fullmatch(text):
        raise UnreadableError("a letter and something behind it")
    about = split(text, re.compile(r"\\approx(?![A-Za-z])"))
    if len(about) > 1:
        if len(about) > 2 or not all(about):
            raise UnreadableError("a value that is not exact")
        right = _read(about[1], depth)
        if _NAME.fullmatch(unwrapped(about[0])):
            return replace(right, name=_name(about[0]))
        return Form("approximation", parts=(_read(about[0], depth), right))
    sides = split(text, _EQUALS)
    if len(sides) > 1:
        return _equation(sides, depth)
    if _COMPARES.search(text):
        return _inequality(text)
    if found := _BASED.fullmatch(text):
        return Form("based", f"{found[1].lstrip('0') or '0'} {found[2] or found[3]}")
    if ":" in text:
        parts = [part.strip() for part in text.split(":")]
        numbers = [as_number(part) for part in parts]
        if all(number is not None for number in numbers):
            return Form(
                "ratio", text, tuple(Form("value", part, node=value_of(as_number(part) or Fraction(0))) for part in parts)
            )
        return Form("words", " ".join(unwrapped(text).casefold().replace(".", "").split()))
    if (word := word_form(text)) is not None:
        return Form("words", word) if isinstance(word, str) else Form("value", text, node=value_of(Fraction(word)))
    return _with_unit(text, depth)


def _equation(sides: list[str], depth: int) -> Form:
    if not all(sides):
        raise UnreadableError("an equation without a side")
    first, last = unwrapped(sides[0]), sides[-1]
    if _NAME.fullmatch(first) and first:
        form = _read(last, depth)
        if form.name or form.kind == "relation" or (len(sides) > 2 and last == "0"):
            raise UnreadableError("an equation of an equation")
        if len(first) == 1 and form.node is not None and first in variables(form.node):
            return Form("relation", "=", (Form("value", node=parse(first)), form))
        return replace(form, name=_name(first))
    if all(_ONLY_NUMBERS.fullmatch(side) for side in sides[:-1]):
        if len(sides) == 2 and re.fullmatch(r"[A-Za-z]", last):
            return replace(_read(sides[0], depth), name=last)
        form = _read(last, depth)
        if form.kind == "words":
            raise UnreadableError("a number that is a word")
        if form.node is None or not variables(form.node):
            return form
    if len(sides) > 2:
        raise UnreadableError("a chain of equations")
    return Form("relation", "=", tuple(Form("value", node=parse(side)) for side in sides))


def _inequality(text: str) -> Form:
    signs = [_operator(found[0]) for found in _COMPARES.finditer(text)]
    sides = [side.strip() for side in _COMPARES.split(text)]
    if not all(sides) or len(signs) > 2:
        raise UnreadableError("an inequality without a side")
    named = [bool(_NAME.fullmatch(side)) and len(side) <= 5 for side in sides]
    if len(signs) == 2:
        if not named[1] or signs[0][0] != signs[1][0] or "!=" in signs:
            raise UnreadableError("a chain of inequalities")
        low, high, name = _constant(sides[0]), _constant(sides[2]), _name(sides[1])
        if signs[0][0] == ">":
            low, high, signs = high, low, [_MIRRORED[sign] for sign in reversed(signs)]
        brackets = ("[" if "=" in signs[0] else "(") + ("]" if "=" in signs[1] else ")")
        return _interval(brackets, low, high, name)
    [sign] = signs
    nodes = [parse(side) for side in sides]
    if named[1] and not variables(nodes[0]):
        nodes, named, sides, sign = nodes[::-1], named[::-1], sides[::-1], _MIRRORED[sign]
    if not named[0] or variables(nodes[1]):
        return Form("relation", sign, tuple(Form("value", node=node) for node in nodes))
    bound, name = nodes[1], _name(sides[0])
    if sign == "!=":
        return _all_but(bound, name)
    if sign[0] == "<":
        return _interval("(" + ("]" if "=" in sign else ")"), Node("negative", (INFINITY,)), bound, name)
    return _interval(("[" if "=" in sign else "(") + ")", bound, INFINITY, name)


def _operator(text: str) -> str:
    return _OPERATORS.get(text.removeprefix("\\"), text)


def _constant(text: str) -> Node:
    node = parse(text)
    if variables(node):
        raise UnreadableError("a bound that is not a number")
    return node


def _name(text: str) -> str:
    return re.sub(r"[\s{}]", "", unwrapped(text))


def _with_unit(text: str, depth: int) -> Form:
    """A value without its unit. Words that look like a unit but change the number, such as "5 million", are unreadable."""
    currency = re.match(r"(-?) ?\\?([$€£¥₹]) ?(?=[-\d.])", text)
    if currency:
        form = _read(currency[1] + text[currency.end() :], depth)
        if form.kind != "value" or (form.unit and form.unit != CURRENCIES[currency[2]]):
            raise UnreadableError("an amount of money with another unit")
        return replace(form, unit=CURRENCIES[currency[2]])
    if percent := re.search(r" ?\\?%$", text):
        return Form("value", text, unit="%", node=parse(text[: percent.start()]))
    try:
        with_unit = split_unit(text)
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    if with_unit is None:
        node = parse(text)
        if node.head != "degree":
            return Form("value", text, node=node)
        if variables(node.parts[0]):
            raise UnreadableError("a degree sign on a letter")
        return Form("value", text, unit="degree", node=node.parts[0])
    value, unit = with_unit
    number = as_number(value)
    return Form("value", value, unit=unit, node=parse(value) if number is None else value_of(number))


def _listed_digits(text: str) -> list[str]:
    return text.split(",") if re.fullmatch(r"\d+(?:,\d+)+", text) else []
