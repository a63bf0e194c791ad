"""Counters, reports and notes: a wrong argument is an error at once, and names the line that made the call."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.operator import Context, DeclarationError
from engine.operator.context import Tally


@pytest.fixture
def tally() -> Tally:
    """What the operator reported."""
    return Tally()


@pytest.fixture
def ctx(tally: Tally, tmp_path: Path) -> Context:
    """A context of one row."""
    nowhere = logging.getLogger("nowhere")
    return Context(nowhere, {}, lambda: 0, lambda: tmp_path, tmp_path, tally, lambda _: [], lambda _: b"", lambda *_: None)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda ctx: ctx.count(3), r"ctx\.count: metric is 3 \(int\); expected a text \(str\)"),
        (lambda ctx: ctx.count("n", slice=None), r"ctx\.count: slice is None \(NoneType\); expected a text"),
        (lambda ctx: ctx.count("n", by="2"), r"ctx\.count: by is '2' \(str\); expected a number"),
        (lambda ctx: ctx.count("n", by=float("nan")), r"ctx\.count: by is nan; expected a finite number"),
        (lambda ctx: ctx.report("n", None), r"ctx\.report: value is None \(NoneType\); expected a number"),
        (lambda ctx: ctx.report("n", float("inf")), r"ctx\.report: value is inf; expected a finite number"),
        (lambda ctx: ctx.report(["n"], 1.0), r"ctx\.report: metric is \['n'\] \(list\); expected a text"),
        (lambda ctx: ctx.reject(7), r"ctx\.reject: reason is 7 \(int\); expected a text"),
        (lambda ctx: ctx.note(None), r"ctx\.note: text is None \(NoneType\); expected a text"),
    ],
)
def test_a_wrong_argument_names_the_line(ctx: Context, tally: Tally, call: Any, expected: str) -> None:
    with pytest.raises(DeclarationError, match=expected) as error:
        call(ctx)
    assert re.match(rf"{re.escape(__file__)}:\d+: ctx\.", str(error.value))
    assert tally == Tally()


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.int64(2)])
def test_numbers_of_numpy_are_numbers(ctx: Context, tally: Tally, number: Any) -> None:
    ctx.count("n", "a", number)
    ctx.count("n", "a", True)
    ctx.count("n", "a", np.bool_(False))
    ctx.report("m", number)
    assert tally.counts == {("n", "a"): 3}
    assert tally.values == {("m", ""): 2}


def test_what_is_not_unicode_is_replaced(ctx: Context, tally: Tally) -> None:
    ctx.count("n\ud800", "a\udc00")
    ctx.report("m\ud800", 1, "b\udc00")
    ctx.note("t\ud800")
    assert tally.counts == {("n\ufffd", "a\ufffd"): 1}
    assert tally.values == {("m\ufffd", "b\ufffd"): 1}
    assert tally.notes == ["t\ufffd"]
