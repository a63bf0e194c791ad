"""Rejects with the same cause count together, whatever the value of their row was."""

from __future__ import annotations

from engine.causes import by_cause


def test_reasons_that_differ_in_a_value_have_one_cause() -> None:
    said = [f"n: Could not convert string '{each}' to INT32" for each in ("x", "it's", "7")]
    assert by_cause([*said, "the row has no image"]) == [
        ("n: Could not convert string * to INT*", "n: Could not convert string 'x' to INT32 (and others with other values)", 3),
        ("the row has no image", "the row has no image", 1),
    ]


def test_equal_reasons_are_shown_as_they_are() -> None:
    reason = "the answer was cut off at max_tokens=7"
    assert by_cause([reason] * 2) == [("the answer was cut off at max_tokens=*", reason, 2)]
    assert by_cause([]) == []


def test_other_words_are_another_cause() -> None:
    assert len(by_cause(["where: division by zero", "where: out of range"])) == 2
