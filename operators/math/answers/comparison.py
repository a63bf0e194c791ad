"""Compares parsed answers; the verdict is correct or wrong only if both have a single reading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from operators.math.answers.expressions import Node, letter, walk
from operators.math.answers.forms import Form
from operators.math.answers.notation import grouped_readings
from operators.math.answers.units import is_measure, may_be_converted
from operators.math.answers.values import equal, exact, proportional
from operators.math.answers.word_answers import compare_words
from operators.records import Verdict

_MOST_IN_ANY_ORDER = 60
_DIRECTIONS = {"<": 1, "<=": 1, ">": -1, ">=": -1, "=": 0, "!=": 0}


def compare(gold: Form, given: Form) -> Verdict:
    """Whether two forms mean the same.

    Pairs with two possible readings are unparsed, not wrong: the same number in another unit, a ratio against a fraction, a
    list against a tuple, a column against a row, words against other words or a value, a relation against a value.
    """
    if gold.name and given.name and gold.name != given.name:
        return "wrong" if len(gold.name) == len(given.name) == 1 and gold.name.lower() != given.name.lower() else "unparsed"
    kinds = {gold.kind, given.kind}
    if "approximation" in kinds:
        return _approximations(gold, given)
    if "grouped" in kinds:
        return _grouped(gold, given)
    if kinds == {"value"}:
        return _values(gold, given)
    if kinds == {"words"}:
        return compare_words(gold.text, given.text)
    if "relation" in kinds:
        return _relations(gold, given)
    if kinds == {"based"}:
        same_base = gold.text.split()[1] == given.text.split()[1]
        return "correct" if gold.text == given.text else "wrong" if same_base else "unparsed"
    if kinds == {"words", "value"} and (letters := _variables(gold, given)):
        return _values(*letters)
    if kinds & {"words", "based"}:
        return "unparsed"
    if "ratio" in kinds:
        return _ratios(gold, given)
    if kinds <= {"bracket", "matrix"}:
        return _arrays(gold, given)
    if kinds == {"bracket", "set"}:
        listed = len(gold.parts) == len(given.parts) and _in_any_order(gold, given) != "wrong"
        return "unparsed" if listed else "wrong"  # 1, 2 may be a point
    if kinds == {"bracket", "value"}:
        bracket, value = (gold, given) if gold.kind == "bracket" else (given, gold)
        if bracket.unit:  # an interval; some people answer 3 where x > 3 is meant
            return "unparsed" if any(compare(part, value) == "correct" for part in bracket.parts) else "wrong"
        return "unparsed" if len(bracket.parts) == 2 and bracket.text == "()" else "wrong"
    if kinds & {"bracket", "matrix", "union"} and kinds != {"union"}:
        return "unparsed" if kinds & {"matrix", "union"} else "wrong"
    if "set" in kinds and (_is_empty(gold) or _is_empty(given)):
        return "correct" if _is_empty(gold) and _is_empty(given) else "wrong"
    return _in_any_order(gold, given)


def _variables(gold: Form, given: Form) -> tuple[Form, Form] | None:
    """The forms, with single letters read as expressions; None if there are longer words."""
    if any(form.kind == "words" and len(form.text) != 1 for form in (gold, given)):
        return None
    one, other = (form if form.node else replace(form, kind="value", node=letter(form.text)) for form in (gold, given))
    return one, other


def _is_empty(form: Form) -> bool:
    return form.kind == "set" and not form.parts


def _values(gold: Form, given: Form) -> Verdict:
    if gold.node is None or given.node is None:
        return "unparsed"
    if "%" in (gold.unit, given.unit):
        return _percentages(gold, given)
    if gold.unit and given.unit and gold.unit != given.unit:
        return "unparsed"
    verdict = equal(gold.node, given.node)
    if gold.unit != given.unit:
        [unit] = {gold.unit, given.unit} - {""}
        if unit == "degree" and verdict != "correct":
            return "unparsed" if _is_angle(gold.node) or _is_angle(given.node) else verdict  # degrees against radians
        if verdict == "wrong" and is_measure(unit) and may_be_converted(exact(gold.node), exact(given.node)):
            return "unparsed"
    return _typed(gold.node, given.node) or verdict


def _typed(gold: Node, given: Node) -> Verdict | None:
    """`unparsed` for possible abbreviations: 5m against 5 (meters), 12k against 12,000, a letter against a number."""
    for letters, number in ((gold, given), (given, gold)):
        if exact(number) is None:
            continue
        if letters.head == "variable":
            return "unparsed"
        if letters.head == "product" and all(part.head == "variable" for part in letters.parts[1:]):
            same = exact(letters.parts[0]) == exact(number)
            return "unparsed" if same else None
    return None


def _is_angle(node: Node) -> bool:
    """Whether an expression may be an angle in radians."""
    return any(part.name == "pi" or part.name.startswith("arc") for part in walk(node))


def _percentages(gold: Form, given: Form) -> Verdict:
    """25% is 0.25. Datasets such as GSM8K omit the sign, so a bare 25 is also 25%. A bare 0.25 may be 0.25%: unparsed."""
    assert gold.node is not None
    assert given.node is not None
    if gold.unit == given.unit:
        return equal(gold.node, given.node)
    if gold.unit and given.unit:
        return "unparsed"
    percent, plain = exact(gold.node), exact(given.node)
    if given.unit == "%":
        percent, plain = plain, percent
    if percent is None or plain is None:
        return "unparsed"
    if percent == plain * 100:
        return "correct"
    return "wrong" if percent != plain else "correct" if abs(plain) > 1 else "unparsed"


def _approximations(gold: Form, given: Form) -> Verdict:
    """The approximated values must be equal; if only the approximations are, the question may have asked for one."""
    if gold.kind == given.kind:
        return compare(gold.parts[0], given.parts[0])
    about, other = (gold, given) if gold.kind == "approximation" else (given, gold)
    verdicts = [compare(part, other) for part in about.parts]
    return "correct" if verdicts[0] == "correct" else "wrong" if verdicts == ["wrong", "wrong"] else "unparsed"


def _grouped(gold: Form, given: Form) -> Verdict:
    """Digits separated by a comma, point or blank may be a number in some countries, or a list."""
    if gold.kind == given.kind:
        return "unparsed" if grouped_readings(gold.text) & grouped_readings(given.text) else _lists(gold, given)
    grouped, other = (gold, given) if gold.kind == "grouped" else (given, gold)
    if other.kind == "value":
        number = exact(other.node) if other.node else None
        return "wrong" if number is not None and number not in grouped_readings(grouped.text) and not other.unit else "unparsed"
    return _lists(gold, given) if other.kind == "set" and grouped.parts else "unparsed"


def _lists(gold: Form, given: Form) -> Verdict:
    as_set = [Form("set", parts=form.parts) for form in (gold, given)]
    if not all(form.parts for form in as_set):
        return "unparsed"
    return _in_any_order(*as_set)


def _relations(gold: Form, given: Form) -> Verdict:
    expected, found = _as_relation(gold), _as_relation(given)
    if expected is None or found is None:
        return "unparsed"
    (one, left), (other, right) = expected, found
    if (one in ("=", "!=")) != (other in ("=", "!=")) or (one in ("=", "!=") and one != other):
        return "wrong" if {one, other} == {"=", "!="} else "unparsed"
    sign = proportional(left, right)
    if sign is None:
        return "unparsed"
    if one in ("=", "!="):
        return "correct"
    if not sign:
        return "unparsed"
    return "correct" if _DIRECTIONS[one] == _DIRECTIONS[other] * sign and ("=" in one) == ("=" in other) else "wrong"


def _as_relation(form: Form) -> tuple[str, Node] | None:
    """The sign of a relation and the difference of its sides."""
    if form.kind == "relation":
        left, right = (part.node for part in form.parts)
        if left is None or right is None:
            return None
        return form.text, Node("sum", (left, Node("negative", (right,))))
    if form.kind == "value" and form.node is not None and len(form.name) == 1 and not form.unit:
        return "=", Node("sum", (Node("variable", name=form.name), Node("negative", (form.node,))))
    return None


def _ratios(gold: Form, given: Form) -> Verdict:
    if gold.kind != given.kind:
        return "unparsed"
    verdict = _in_order(gold.parts, given.parts)
    if verdict == "wrong" and len(gold.parts) == len(given.parts):
        numbers = [
            tuple(exact(part.node) if part.node else None for part in pair)
            for pair in zip(gold.parts, given.parts, strict=True)
        ]
        (a, b), *others = numbers
        if all(a * y == b * x for x, y in others):  # type: ignore[operator]
            return "unparsed"  # 6:8 is 3:4, but 1:30 is not 2:60
    return verdict


def _arrays(gold: Form, given: Form) -> Verdict:
    """Compare points, intervals, vectors and matrices."""
    verdict = _in_order(gold.parts, given.parts)
    if (gold.kind, gold.text) == (given.kind, given.text):
        one_interval = (gold.unit == "interval") != (given.unit == "interval")
        named = bool(gold.name) != bool(given.name)
        return "unparsed" if verdict == "correct" and one_interval and named and gold.text == "()" else verdict
    if verdict == "correct" and (gold.kind != "bracket" or given.kind != "bracket" or "<>" in (gold.text, given.text)):
        return "unparsed"  # a column, a row, a vector in angle brackets
    return "wrong" if verdict != "unparsed" else "unparsed"


def _in_order(gold: Sequence[Form], given: Sequence[Form]) -> Verdict:
    if len(gold) != len(given):
        return "wrong"
    return _worst(compare(a, b) for a, b in zip(gold, given, strict=True))


def _in_any_order(one: Form, other: Form) -> Verdict:
    """Compare sets; a value counts as the set that contains it."""
    gold, given = ((form,) if form.node is not None else form.parts for form in (one, other))
    if max(len(gold), len(given)) > _MOST_IN_ANY_ORDER:
        return "unparsed"
    names = [{part.name for part in parts} for parts in (gold, given)]
    if {""} in names and max(map(len, names)) > 1:
        return _in_order(gold, given)  # "x=1, y=2" against "1, 2"
    table = [[compare(a, b) for b in given] for a in gold]
    covered = all("correct" in row for row in table) and all("correct" in column for column in zip(*table, strict=True))
    if len(gold) != len(given):
        return "unparsed" if covered else "wrong"  # {1, 1} is {1}; but 1, 1 as the answer to two questions is not 1
    left = list(range(len(given)))
    verdicts: list[Verdict] = []
    for row in table:
        found = [row[place] for place in left]
        if "correct" in found:
            left.pop(found.index("correct"))
        verdicts.append("correct" if "correct" in found else "unparsed" if "unparsed" in found else "wrong")
    return _worst(verdicts)


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    found = set(verdicts)
    return "wrong" if "wrong" in found else "unparsed" if "unparsed" in found else "correct"
