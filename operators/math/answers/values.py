"""Decides whether two expressions are equal: exactly if they are rational, otherwise by their values to 150 digits.

Expressions with variables are compared at fixed points. They are different if they differ at one of them, and equal, with a
negligible chance of error, if they agree at all of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache, reduce
from itertools import product
from math import comb, factorial
from operator import mul
from typing import Any, NamedTuple

from operators.math.answers.expressions import TRIGONOMETRIC, Node, variables, walk
from operators.records import Verdict

_DIGITS = 150
_EQUAL, _DIFFERENT = 120, 60
"""Values agree if their difference is below 10^-120 of the largest intermediate number, and differ if it is above 10^-60."""
_MOST_EXACT_BITS = 20_000
_LEAST_POINTS = 2
_CONSTANTS_OF_INTEGRATION = frozenset({"C", "c", "K", "k"})


class UndefinedError(Exception):
    """An expression has no value at this point."""


class _World(NamedTuple):
    """A reading of implicit notation: the base of log, and whether plain numbers in sin() are degrees."""

    base: str
    degrees: bool


def equal(one: Node, other: Node) -> Verdict:
    """Whether two expressions are equal; unparsed if they have no value, or if it depends on the reading."""
    a, b = exact(one), exact(other)
    if a is not None and b is not None:
        return "correct" if a == b else "wrong"
    verdicts = {_equal_in(world, one, other) for world in _worlds(one, other)}
    return verdicts.pop() if len(verdicts) == 1 else "unparsed"


def proportional(one: Node, other: Node) -> int | None:
    """The sign of the constant ratio of two expressions; 0 if it is complex, None if the ratio is not constant."""
    signs: set[int | None] = set()
    for world in _worlds(one, other):
        ratios = []
        for point in (each for points in _points(one, other) for each in points):
            values = _value_at(world, one, point), _value_at(world, other, point)
            if None not in values and values[1].value != 0:  # type: ignore[union-attr]
                ratios.append(values[0].value / values[1].value)  # type: ignore[union-attr]
        first = ratios[0] if len(ratios) >= _LEAST_POINTS else None
        if (
            first is None
            or first == 0
            or any(abs(each - first) > abs(first) * _context().mpf(10) ** -_DIFFERENT for each in ratios)
        ):
            signs.add(None)
        else:
            signs.add(0 if abs(first.imag) > abs(first) * 1e-50 else 1 if first.real > 0 else -1)
    return signs.pop() if len(signs) == 1 else None


def exact(node: Node) -> Fraction | None:
    """The value of a rational expression; None if it is not rational, or too large."""
    parts = [exact(part) for part in node.parts]
    if any(part is None or part.numerator.bit_length() + part.denominator.bit_length() > _MOST_EXACT_BITS for part in parts):
        return None
    values = [part for part in parts if part is not None]
    match node.head:
        case "number":
            return node.value
        case "negative":
            return -values[0]
        case "sum":
            return sum(values, Fraction(0))
        case "product":
            return reduce(mul, values)
        case "quotient":
            return values[0] / values[1] if values[1] else None
        case "abs":
            return abs(values[0])
        case "floor":
            return Fraction(values[0].numerator // values[0].denominator)
        case "ceil":
            return Fraction(-(-values[0].numerator // values[0].denominator))
        case "power":
            base, exponent = values
            size = (base.numerator.bit_length() + base.denominator.bit_length()) * abs(exponent)
            usable = exponent.denominator == 1 and size <= _MOST_EXACT_BITS and (base or exponent > 0)
            return base ** int(exponent) if usable else None
        case "factorial":
            usable = values[0].denominator == 1 and 0 <= values[0] <= 1000
            return Fraction(factorial(int(values[0]))) if usable else None
        case "binomial":
            usable = all(each.denominator == 1 and 0 <= each <= 1000 for each in values)
            return Fraction(comb(*map(int, values))) if usable else None
    return None


def _equal_in(world: _World, one: Node, other: Node) -> Verdict:
    sets = [[_agree(world, one, other, point) for point in points] for points in _points(one, other)]
    names = variables(one), variables(other)
    known = [[each for each in agreed if each is not None] for agreed in sets]
    positive, whole, negative = known
    if not names[0] | names[1]:
        return "unparsed" if not positive else "correct" if positive[0] else "wrong"
    if len(positive) < _LEAST_POINTS and len(whole) < _LEAST_POINTS:
        return "unparsed"
    if all(positive + whole + negative):
        return "correct"
    if names[0] ^ names[1] and names[0] ^ names[1] <= _CONSTANTS_OF_INTEGRATION:
        return "unparsed"  # x^2 and x^2 + C
    return "wrong" if not all(whole) and not all(positive) else "unparsed"  # (-1)^{2n} is 1 for integers, |x| is x for some x


def _agree(world: _World, one: Node, other: Node, point: Mapping[str, Any]) -> bool | None:
    a, b = _value_at(world, one, point), _value_at(world, other, point)
    if a is None or b is None:
        return None
    mp = _context()
    if mp.isinf(a.value) or mp.isinf(b.value):
        return bool(a.value == b.value)
    size, difference = max(a.size, b.size), abs(a.value - b.value)
    if difference <= size * mp.mpf(10) ** -_EQUAL:
        return True if size < mp.mpf(10) ** _DIFFERENT or difference == 0 else None
    return False if difference >= size * mp.mpf(10) ** -_DIFFERENT else None


class _Value(NamedTuple):
    """A value, and the size of the largest intermediate number."""

    value: Any
    size: Any


def _value_at(world: _World, node: Node, point: Mapping[str, Any]) -> _Value | None:
    try:
        found = _evaluate(world, node, point)
    except (UndefinedError, ZeroDivisionError, ValueError, OverflowError):
        return None
    return None if _context().isnan(found.value) else found


def _evaluate(world: _World, node: Node, point: Mapping[str, Any]) -> _Value:
    parts = [_evaluate(world, part, point) for part in node.parts]
    value = _operation(world, node, [part.value for part in parts], point)
    return _Value(value, max([abs(value), *(part.size for part in parts)]))


def _operation(world: _World, node: Node, values: Sequence[Any], point: Mapping[str, Any]) -> Any:
    mp = _context()
    match node.head:
        case "number":
            return mp.mpf(node.value.numerator) / node.value.denominator
        case "variable":
            return point[node.name]
        case "constant":
            return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "infinity": mp.inf}[node.name]
        case "negative":
            return -values[0]
        case "sum":
            return mp.fsum(values)
        case "product":
            return mp.fprod(values)
        case "quotient":
            return values[0] / values[1]
        case "power":
            base, exponent = values
            if not exponent and not base:
                raise UndefinedError
            if not mp.im(base) and mp.re(base) < 0 and not mp.isint(2 * exponent) and not node.parts[0].head == "variable":
                raise UndefinedError  # the cube root of -8 is -2 or complex, by convention
            return mp.power(base, exponent)
        case "root":
            base, index = values
            if not mp.isint(index) or index < 2:
                raise UndefinedError
            if not mp.im(base) and mp.re(base) < 0 and int(index) % 2:
                return -mp.root(-base, int(index))
            return mp.root(base, int(index))
        case "abs":
            return abs(values[0])
        case "floor":
            return mp.floor(values[0])
        case "ceil":
            return mp.ceil(values[0])
        case "factorial":
            return mp.factorial(values[0])
        case "binomial":
            return mp.binomial(*values)
        case "degree":
            return values[0] * mp.pi / 180
        case "call":
            return _call(world, node, values)
    raise UndefinedError


def _call(world: _World, node: Node, values: Sequence[Any]) -> Any:
    mp = _context()
    if node.name == "log":
        base = values[1] if len(values) > 1 else +mp.e if world.base == "e" else mp.mpf(10)
        return mp.log(values[0]) / mp.log(base)
    inside = values[0]
    if world.degrees and _may_be_degrees(node):
        inside = inside * mp.pi / 180
    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
    found = getattr(mp, names.get(node.name, node.name))(inside)
    if abs(found) > mp.mpf(10) ** (_DIGITS - 20):
        raise UndefinedError  # a pole, such as tan 90 degrees
    return found


def _worlds(one: Node, other: Node) -> list[_World]:
    nodes = [*walk(one), *walk(other)]
    bases = ("e", "10") if any(node.name == "log" and len(node.parts) == 1 for node in nodes) else ("e",)
    degrees = (False, True) if any(_may_be_degrees(node) for node in nodes) else (False,)
    return [_World(*each) for each in product(bases, degrees)]


def _may_be_degrees(node: Node) -> bool:
    """Whether a function is applied to an angle without a unit: many people write sin 30 for sin 30 degrees."""
    return node.head == "call" and node.name in TRIGONOMETRIC and all(part.head == "number" for part in walk(node.parts[0]))


def _points(one: Node, other: Node) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Points for the variables of two expressions: with positive numbers, positive integers, and some negative numbers."""
    names = sorted(variables(one) | variables(other))
    if not names:
        return [{}], [], []
    draws = random.Random(20260101)
    mp = _context()

    def drawn(sign: int) -> dict[str, Any]:
        return {name: sign * mp.mpf(draws.randrange(300, 4000)) / 997 for name in names}

    mixed = [{name: draws.choice((-1, 1)) * value for name, value in drawn(1).items()} for _ in range(2)]
    whole = [{name: mp.mpf(draws.randrange(2, 9)) for name in names} for _ in range(3)]
    return [drawn(1) for _ in range(4)], whole, [drawn(-1), drawn(-1), *mixed]


@cache
def _context() -> Any:
    from mpmath import MPContext

    context = MPContext()
    context.dps = _DIGITS
    return context
