"""Differences of means with intervals, for rows that are not independent.

Rows made from the same source row form a cluster. With the sums S and sizes N of both sides, the difference is
d = S_B / N_B - S_A / N_A. Its variance is that of the jackknife that leaves out one of G clusters on both sides,

    (G - 1) / G * sum_g (d_without_g - d)^2

(CR3: MacKinnon, Nielsen and Webb 2023, J. Econometrics 232; Cameron and Miller 2015, J. Human Resources 50), and the interval
has the t-quantiles of G - 1 degrees of freedom. Leaving a cluster out on both sides is what pairs the rows: what makes a source
row easy or hard for both cancels (Miller 2024, arXiv 2411.00640). Where few clusters differ between the sides, a t-interval is
too short, so a difference also has to pass the exact test that swaps the sides of clusters in all ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Clusters = NDArray[np.int64]

LEVEL = 0.05
"""The error rate: intervals cover with 1 - LEVEL."""
POWER = 0.8
FEWEST_CLUSTERS = 6
"""With fewer clusters than this, no test that swaps sides can reach 5 %."""
_EXACT = 12
"""The maximum number of clusters that differ for which all swaps are tried (2^12)."""


@dataclass(frozen=True)
class Difference:
    """The mean of the second side minus that of the first.

    Args:
        first, second: the means.
        value: their difference.
        low, high: its 95 % interval; None with too few clusters.
        p: the p-value of a two-sided test against 0; None with too few clusters.
        detectable: the true difference that such a comparison shows in 80 % of cases; None with too few clusters.
        clusters: the number of clusters.
        rows: the number of rows of each side that were used.
        higher, lower: clusters whose mean is higher, or lower, on the second side; None if rows are not paired.
        paired: whether clusters are on both sides.
    """

    first: float
    second: float
    value: float
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    clusters: int
    rows: tuple[int, int]
    higher: int | None
    lower: int | None
    paired: bool

    @property
    def differs(self) -> bool:
        """Whether the means or any clusters differ at all; this is no test."""
        return bool(self.value or self.higher or self.lower)


def paired_difference(first: Numbers, first_clusters: Clusters, second: Numbers, second_clusters: Clusters) -> Difference:
    """The difference between rows whose clusters are on both sides. Every cluster must have rows on both.

    Args:
        first, second: the values of the rows.
        first_clusters, second_clusters: the number of each row's cluster.
    """
    import numpy as np

    _, places = np.unique(np.concatenate([first_clusters, second_clusters]), return_inverse=True)
    count = int(places.max()) + 1
    own, other = places[: len(first)], places[len(first) :]
    s, t = np.bincount(own, first, count), np.bincount(other, second, count)
    n, m = np.bincount(own, minlength=count), np.bincount(other, minlength=count)
    value = float(t.sum() / m.sum() - s.sum() / n.sum())
    means = t / m - s / n
    close = np.abs(means) <= 1e-12
    low = high = p = detectable = None
    if count >= FEWEST_CLUSTERS:
        without = (t.sum() - t) / (m.sum() - m) - (s.sum() - s) / (n.sum() - n)
        error = math.sqrt((count - 1) / count * float(((without - value) ** 2).sum()))
        low, high, p, detectable = _t_interval(value, error, count - 1)
        p = max(p, _swapped(s, n, t, m, value))
    return Difference(
        float(first.mean()),
        float(second.mean()),
        value,
        low,
        high,
        p,
        detectable,
        count,
        (len(first), len(second)),
        int(((means > 0) & ~close).sum()),
        int(((means < 0) & ~close).sum()),
        paired=True,
    )


def unpaired_difference(first: Numbers, first_clusters: Clusters, second: Numbers, second_clusters: Clusters) -> Difference:
    """The difference between rows of different sources, with degrees of freedom by Welch and Satterthwaite; see above."""
    variances, counts = [], []
    for values, clusters in ((first, first_clusters), (second, second_clusters)):
        variance, count = _variance_of_mean(values, clusters)
        variances.append(variance)
        counts.append(count)
    value = float(second.mean() - first.mean())
    low = high = p = detectable = None
    if min(counts) >= FEWEST_CLUSTERS:
        total = sum(variances)
        parts = sum(each**2 / (count - 1) for each, count in zip(variances, counts, strict=True))
        low, high, p, detectable = _t_interval(value, math.sqrt(total), total**2 / parts if parts else min(counts) - 1)
    means = float(first.mean()), float(second.mean())
    sizes = len(first), len(second)
    return Difference(*means, value, low, high, p, detectable, sum(counts), sizes, None, None, paired=False)


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): the probability of any wrong finding stays at the level."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = largest
    return adjusted


def _t_interval(value: float, error: float, freedom: float) -> tuple[float, float, float, float]:
    """Low, high, two-sided p, and the detectable difference."""
    from scipy.special import stdtr, stdtrit

    margin = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(value) / error)) if error else float(value == 0)
    return value - margin, value + margin, p, margin + float(stdtrit(freedom, POWER)) * error


def _variance_of_mean(values: Numbers, clusters: Clusters) -> tuple[float, int]:
    import numpy as np

    _, places = np.unique(clusters, return_inverse=True)
    s, n = np.bincount(places, values), np.bincount(places)
    count = len(s)
    if count < 2:
        return 0.0, count
    without = (s.sum() - s) / (n.sum() - n)
    return float((count - 1) / count * ((without - values.mean()) ** 2).sum()), count


def _swapped(s: NDArray[Any], n: NDArray[Any], t: NDArray[Any], m: NDArray[Any], value: float) -> float:
    """The share of all ways to swap the sides of clusters that make a difference as large; 0 if there are too many ways."""
    import numpy as np

    differ = np.flatnonzero((np.abs(s - t) > 1e-12) | (n != m))
    if len(differ) > _EXACT:
        return 0.0
    swaps = (np.arange(2 ** len(differ))[:, None] >> np.arange(len(differ)) & 1).astype(float)
    moved = swaps @ (t - s)[differ], swaps @ (m - n)[differ].astype(float)
    found = (t.sum() - moved[0]) / (m.sum() - moved[1]) - (s.sum() + moved[0]) / (n.sum() + moved[1])
    return float((np.abs(found) >= abs(value) - 1e-12).mean())
