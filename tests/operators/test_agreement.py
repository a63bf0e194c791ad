"""Krippendorff's alpha against the published examples, and against its definition by pairs."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.agreement import krippendorff_alpha

# K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011: sections A, B and C.
BINARY = ["0100000010", "1110010000"]
NOMINAL = ["aabbdcccedda", "babbbccceddd"]
MISSING = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def units(*people: str) -> list[list[str]]:
    """The labels of each unit, without missing ones."""
    assert len({len(each) for each in people}) == 1
    return [[value for value in values if value != "."] for values in zip(*people, strict=True)]


@pytest.mark.parametrize(("people", "alpha"), [(BINARY, 0.095), (NOMINAL, 0.692), (MISSING, 0.743)])
def test_published_examples(people: list[str], alpha: float) -> None:
    found = krippendorff_alpha(units(*people))
    assert found is not None
    assert round(found, 3) == alpha


def test_alpha_of_small_examples() -> None:
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([["a"], ["b"], []]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1
    assert krippendorff_alpha([["a", "b"], ["b", "a"]]) == pytest.approx(-0.5)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4), max_size=12))
def test_alpha_agrees_with_counting_pairs(judged: list[list[str]]) -> None:
    """Observed disagreement over expected disagreement, with both counted pair by pair."""
    found = krippendorff_alpha(judged)
    paired = [values for values in judged if len(values) > 1]
    coincidences: Counter[tuple[str, str]] = Counter()
    for values in paired:
        for pair in permutations(values, 2):
            coincidences[pair] += 1 / (len(values) - 1)  # type: ignore[assignment]
    totals: Counter[str] = Counter()
    for (one, _), weight in coincidences.items():
        totals[one] += weight
    n = sum(totals.values())
    expected = sum(totals[one] * totals[other] for one in totals for other in totals if one != other)
    if not expected:
        assert found is None
        return
    observed = sum(weight for (one, other), weight in coincidences.items() if one != other)
    assert found == pytest.approx(1 - (n - 1) * observed / expected)
