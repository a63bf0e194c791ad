"""Conformal thresholds against two reference packages, against exact rational numbers, and on fresh draws."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom

from operators.conformal.theory import (
    coverage_band,
    exact,
    exceeding,
    p_values,
    quantiles,
    rank,
    smallest_alpha,
)

ALPHAS = [round(0.02 + 0.02 * place, 2) for place in range(30)]


def test_thresholds_equal_mapie_on_a_grid_of_sizes_and_levels():
    from mapie.regression import SplitConformalRegressor
    from sklearn.dummy import DummyRegressor

    random = np.random.default_rng(0)
    compared, rounded = 0, []
    for n in range(60, 165):
        scores = random.exponential(size=n)
        levels = [alpha for alpha in ALPHAS if n >= 1 / alpha and rank(n, alpha) <= n]
        constant = DummyRegressor(strategy="constant", constant=0.0).fit(np.zeros((1, 1)), [0.0])
        reference = SplitConformalRegressor(constant, confidence_level=[1 - alpha for alpha in levels], prefit=True)
        _, bounds = reference.conformalize(np.zeros((n, 1)), scores).predict_interval(np.zeros((1, 1)))
        for alpha, ours, theirs in zip(levels, quantiles(scores, levels), bounds[0, 1], strict=True):
            compared += 1
            if ours != theirs:
                rounded.append((n, alpha))
    assert compared >= 3000
    # MAPIE computes (n + 1) (1 - alpha) in floating point; where that is whole, but for the rounding, it may take the next.
    assert all(((n + 1) * (1 - exact(alpha))).denominator == 1 for n, alpha in rounded)
    assert compared - len(rounded) >= 3000


def test_the_rank_is_exact_where_n_plus_1_times_alpha_is_an_integer():
    for n, percent in product(range(1, 400), range(1, 100)):
        wanted = -((-(n + 1) * (100 - percent)) // 100)
        assert rank(n, percent / 100) == rank(n, f"0.{percent:02}") == rank(n, Fraction(percent, 100)) == wanted
    assert rank(9, 0.1) == 9
    assert rank(99, Decimal("0.05")) == 95
    assert rank(0, 0.5) == 1


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, "0", float("nan")])
def test_a_level_outside_0_to_1_is_an_error(alpha):
    with pytest.raises(ValueError):
        exact(alpha)


def test_with_at_most_one_score_only_justified_thresholds_are_finite():
    assert quantiles([], [0.1, 0.9]).tolist() == [math.inf, math.inf]
    assert quantiles([3.0], [0.4, 0.5, 0.9]).tolist() == [math.inf, 3.0, 3.0]


def test_an_infeasible_level_is_infinite_and_the_smallest_feasible_one_is_reported():
    scores = np.array([0.1] * 70 + [np.inf] * 29)
    feasible = smallest_alpha(scores)
    assert feasible.alpha == pytest.approx(30 / 100)
    assert feasible.low < feasible.alpha < feasible.high
    assert quantiles(scores, [0.29, 0.30]).tolist() == [math.inf, 0.1]
    assert smallest_alpha([]).alpha == 1.0
    assert smallest_alpha([1.0] * 9).alpha == pytest.approx(0.1)


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, math.inf]), max_size=40),
    st.fractions(min_value="1/50", max_value="49/50", max_denominator=50),
)
def test_the_smallest_level_is_where_thresholds_become_finite(scores, alpha):
    n, missing = len(scores), sum(map(math.isinf, scores))
    feasible = alpha >= Fraction(missing + 1, n + 1)
    assert np.isfinite(quantiles(scores, [alpha])[0]) == feasible


@given(
    st.lists(st.integers(0, 6), max_size=60),
    st.integers(-1, 7),
    st.fractions(min_value="1/40", max_value="39/40", max_denominator=40),
)
def test_a_score_is_within_the_threshold_exactly_if_its_p_value_exceeds_alpha(scores, new, alpha):
    inside = new <= quantiles(scores, [alpha])[0]
    assert inside == (Fraction(int(exceeding(scores, [new])[0]) + 1, len(scores) + 1) > alpha)


def test_nan_scores_are_errors():
    with pytest.raises(ValueError, match="NaN"):
        quantiles([1.0, math.nan], [0.5])
    with pytest.raises(ValueError, match="NaN"):
        p_values([1.0], [math.nan])


def test_sets_equal_those_of_crepes_on_200_mondrian_worlds():
    from crepes import ConformalClassifier

    for world in range(200):
        random = np.random.default_rng(world)
        n, tested, groups = random.integers(5, 120), 8, random.integers(1, 5)
        digits = int(random.integers(1, 4))  # few digits: many ties
        bins, new_bins = random.integers(0, groups, n), random.integers(0, groups, tested)
        calibration, new = random.random(n).round(digits), random.random((tested, 6)).round(digits)
        calibration[random.random(n) < 0.1] = np.inf
        alpha = Fraction(int(random.integers(1, 100)), 100)
        theirs = ConformalClassifier().fit(calibration, bins=bins).predict_p(new, bins=new_bins, smoothing=False)
        for group in range(groups):
            inside, size = calibration[bins == group], int((bins == group).sum())
            ours = new[new_bins == group] <= quantiles(inside, [alpha])[0]
            numerators = np.rint(theirs[new_bins == group] * (size + 1)).astype(int)
            above = [[Fraction(int(value), size + 1) > alpha for value in row] for row in numerators]
            assert ours.tolist() == above
            assert p_values(inside, new[new_bins == group]) == pytest.approx(theirs[new_bins == group])


def test_coverage_on_fresh_draws_is_beta_binomial():
    n, tested, trials, alpha = 500, 2000, 200, 0.1
    random = np.random.default_rng(7)
    found = []
    for _ in range(trials):
        [threshold] = quantiles(random.normal(size=n), [alpha])
        found.append((random.normal(size=tested) <= threshold).mean())
    k = rank(n, alpha)
    law = betabinom(tested, k, n + 1 - k)
    mean, deviation = law.mean() / tested, law.std() / tested / math.sqrt(trials)
    assert mean == pytest.approx(0.90020, abs=1e-5)
    assert deviation == pytest.approx(0.00106, abs=1e-5)
    assert abs(np.mean(found) - mean) < 4 * deviation
    low, high = coverage_band(n, tested, alpha)
    inside = np.mean([low <= share <= high for share in found])
    assert inside > 0.95 - 4 * math.sqrt(0.05 * 0.95 / trials)
    assert coverage_band(3, 100, 0.1) == (1.0, 1.0)
