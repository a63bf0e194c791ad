"""Measures of prediction sets: coverage, size, and whether coverage holds for sets of every size and for every group.

Names are those of the literature: ECR (empirical coverage rate), APSS (average prediction set size), SSM (size-stratified
miscoverage; Angelopoulos et al., arXiv 2009.14193), CovGap (Ding et al., arXiv 2306.09335). Intervals are 95%.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from operators.conformal.theory.quantile import Level, exact, rank
from operators.intervals import clopper_pearson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 1000


class Estimate(NamedTuple):
    """A measured value and its 95% interval; NaN with an unbounded interval if there is nothing to measure."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(float("nan"), float("-inf"), float("inf"))


class Stratum(NamedTuple):
    """Sets of `least` to `most` answers: their number, and the share that misses the true answer."""

    least: int
    most: int
    n: int
    miscoverage: Estimate


def coverage(covered: ArrayLike) -> Estimate:
    """ECR: the share of sets that contain a true answer, with the Clopper-Pearson interval."""
    import numpy as np

    values = np.asarray(covered, bool)
    return _share(int(values.sum()), len(values))


def singleton_share(sizes: ArrayLike) -> Estimate:
    """The share of sets with exactly one answer."""
    import numpy as np

    values = np.asarray(sizes)
    return _share(int((values == 1).sum()), len(values))


def average_size(sizes: ArrayLike) -> Estimate:
    """APSS: the mean number of answers in a set, with Student's interval."""
    import numpy as np

    values = np.asarray(sizes, np.float64)
    if not len(values):
        return UNKNOWN
    mean = float(values.mean())
    if len(values) == 1:
        return Estimate(mean, float("-inf"), float("inf"))
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def size_strata(sizes: ArrayLike, covered: ArrayLike, least: int = 20) -> list[Stratum]:
    """Sets by size; neighbouring sizes are merged until each stratum has at least `least` sets.

    The Clopper-Pearson intervals hold for all strata jointly (Bonferroni).
    """
    import numpy as np

    size, contains = np.asarray(sizes, int), np.asarray(covered, bool)
    bounds: list[list[int]] = []
    waiting: list[int] = []
    number = 0
    for value, count in zip(*np.unique(size, return_counts=True), strict=True):
        waiting.append(int(value))
        number += int(count)
        if number >= least:
            bounds.append(waiting)
            waiting, number = [], 0
    if waiting:
        if bounds:
            bounds[-1] += waiting  # too few for their own stratum
        else:
            return []
    found = []
    for values in bounds:
        inside = np.isin(size, values)
        missed, n = int((inside & ~contains).sum()), int(inside.sum())
        interval = clopper_pearson(missed, n, 1 - 0.05 / len(bounds))
        found.append(Stratum(values[0], values[-1], n, Estimate(missed / n, *interval)))
    return found


def size_stratified_miscoverage(sizes: ArrayLike, covered: ArrayLike, least: int = 20) -> Estimate:
    """SSM: the largest miscoverage of the strata of `size_strata`, with that stratum's interval."""
    strata = size_strata(sizes, covered, least)
    return max((each.miscoverage for each in strata), default=UNKNOWN)


def coverage_gap(covered: ArrayLike, groups: Sequence[str], alpha: Level, seed: int = 0) -> Estimate:
    """CovGap: the mean over groups of |coverage - (1 - alpha)|, from 0 to 1; the interval is a bootstrap within groups.

    Small groups show a gap even if coverage is exact, so compare the gap only between methods on the same questions.
    """
    import numpy as np

    contains, named = np.asarray(covered, float), np.asarray(groups, dtype=object)
    members = [contains[named == name] for name in sorted(set(groups))]
    if not members:
        return UNKNOWN
    target = float(1 - exact(alpha))
    value = float(np.mean([abs(each.mean() - target) for each in members]))
    random = np.random.default_rng(seed)
    drawn = [random.binomial(len(each), each.mean(), _RESAMPLES) / len(each) for each in members]
    low, high = np.quantile(np.mean(np.abs(np.array(drawn) - target), axis=0), (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def coverage_band(n: int, tested: int, alpha: Level, confidence: float = 0.95) -> tuple[float, float]:
    """The range in which the ECR on `tested` new questions lies with this probability, after a calibration on n scores.

    With continuous scores the number of covered questions is BetaBinomial(tested, k, n + 1 - k), k the rank of the threshold
    (Angelopoulos and Bates, arXiv 2107.07511, section 3.2). Ties raise coverage. (1, 1) if k > n.
    """
    k = rank(n, alpha)
    if k > n or not tested:
        return (1.0, 1.0)
    from scipy.stats import betabinom

    tail = (1 - confidence) / 2
    low, high = betabinom.ppf((tail, 1 - tail), tested, k, n + 1 - k) / tested
    return float(low), float(high)


def _share(successes: int, trials: int) -> Estimate:
    if not trials:
        return UNKNOWN
    return Estimate(successes / trials, *clopper_pearson(successes, trials))


def covers(true: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """(n,) whether each set at a threshold contains a sampled true answer."""
    import numpy as np

    return np.asarray((true <= threshold) & np.isfinite(true), dtype=np.bool_)
