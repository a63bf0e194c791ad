"""Differences with intervals: right by hand on small examples, and at the stated error rate on simulated ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.compare import simulate
from engine.comparison.statistics import LEVEL, holm, paired_difference, unpaired_difference


def test_one_row_per_cluster_gives_the_paired_t_test() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(0, 1, 40), random.normal(0.4, 1, 40)
    own = np.arange(40)
    found = paired_difference(first, own, second, own)
    known = stats.ttest_rel(second, first)
    interval = known.confidence_interval()
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(known.pvalue)


def test_the_order_of_rows_and_the_names_of_clusters_do_not_matter() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(size=30), random.normal(size=45)
    own, other = np.repeat(np.arange(15), 2), np.repeat(np.arange(15), 3)
    mixed = random.permutation(45)
    found = paired_difference(first, own, second, other)
    again = paired_difference(first, own * 7 + 3, second[mixed], other[mixed] * 7 + 3)
    assert (found.low, found.high, found.p) == pytest.approx((again.low, again.high, again.p))


def test_copies_of_rows_add_no_certainty() -> None:
    random = np.random.default_rng(2)
    first, second, own = random.normal(size=20), random.normal(size=20), np.arange(20)
    once = paired_difference(first, own, second, own)
    copied = paired_difference(*(np.repeat(each, 10) for each in (first, own, second, own)))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_few_clusters_show_nothing_by_chance() -> None:
    five, six = np.arange(5), np.arange(6)
    assert paired_difference(np.zeros(5), five, np.ones(5), five).low is None
    found = paired_difference(np.zeros(6), six, np.ones(6), six)
    assert found.p == pytest.approx(2 / 2**6)
    # Four that differ of a hundred: the t-interval excludes 0, the exact test does not.
    hundred, second = np.arange(100), np.zeros(100)
    second[:4] = 1
    found = paired_difference(np.zeros(100), hundred, second, hundred)
    assert found.low is not None
    assert found.low > 0
    assert found.p == pytest.approx(2 / 2**4)


def test_rows_that_are_all_the_same_differ_in_nothing() -> None:
    own = np.arange(10)
    found = paired_difference(np.ones(10), own, np.ones(10), own)
    assert (found.value, found.low, found.high, found.p, found.higher, found.lower) == (0, 0, 0, 1, 0, 0)


def test_unpaired_rows_have_the_interval_of_welch() -> None:
    random = np.random.default_rng(3)
    first, second = random.normal(size=30), random.normal(1, 2, size=20)
    found = unpaired_difference(first, np.arange(30), second, np.arange(20))
    known = stats.ttest_ind(second, first, equal_var=False)
    assert found.p == pytest.approx(known.pvalue)
    assert not found.paired


def test_holm_adjusts_for_the_number_of_comparisons() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(("clusters", "most", "share"), [(12, 10, 0.4), (60, 10, 0.6), (200, 4, 0.9)])
def test_equal_configurations_are_called_different_at_the_stated_rate(clusters: int, most: int, share: float) -> None:
    random = np.random.default_rng(4)
    found = 0
    for _ in range(400):
        own = np.repeat(np.arange(clusters), random.integers(1, most + 1, clusters))
        ease = random.normal(np.log(share / (1 - share)), 1.5, clusters)
        sides = [1 / (1 + np.exp(-(ease + random.normal(0, 1, clusters))[own])) for _ in "ab"]
        first, second = ((random.random(len(own)) < each).astype(float) for each in sides)
        p = paired_difference(first, own, second, own).p
        found += p is not None and p < LEVEL
    assert found / 400 <= LEVEL + 0.02


@pytest.mark.proof
def test_the_rate_holds_through_registry_and_lineage() -> None:
    equal, apart = simulate(12, 0.0), simulate(6, 2.5)
    assert equal.clustered <= 0.25
    assert apart.clustered == 1.0
