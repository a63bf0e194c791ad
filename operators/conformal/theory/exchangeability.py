"""Whether new questions are like the calibration questions: a permutation test on features that need no true answers.

The guarantee of a prediction set holds for questions that are exchangeable with the calibration questions. Under that
hypothesis every assignment of rows to the two samples is equally likely, so the p-value is exact: it is at most u with
probability at most u (Lehmann and Romano, Testing Statistical Hypotheses, section 15.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike


class Drift(NamedTuple):
    """The p-value, and for each feature the shift of the new sample in standard deviations of ranks (positive: higher)."""

    p_value: float
    shifts: tuple[float, ...]


def drift(before: ArrayLike, after: ArrayLike, permutations: int = 999, seed: int = 0) -> Drift:
    """Test whether two samples are exchangeable, by the largest shift of a feature's mean rank.

    Args:
        before: (n, features) for the calibration questions.
        after: (k, features) for the new questions.
        permutations: the number of random permutations; the smallest p-value is 1 / (permutations + 1).
        seed: the seed of the permutations.

    Returns:
        The p-value is 1 if one of the samples is empty.
    """
    import numpy as np

    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if not len(first) or not len(second):
        return Drift(1.0, (0.0,) * first.shape[1])
    from scipy.stats import rankdata

    ranks = rankdata(np.vstack([first, second]), axis=0)
    spread = ranks.std(axis=0)
    scaled = np.divide(ranks - ranks.mean(axis=0), spread, out=np.zeros_like(ranks), where=spread > 0)
    n, k = len(first), len(second)

    def shifts(chosen: np.ndarray) -> np.ndarray:
        mean = scaled[chosen].mean(axis=-2)  # the other sample's mean is -mean * k / n
        return np.asarray(mean * (1 + k / n))

    observed = shifts(np.arange(n, n + k))
    random = np.random.default_rng(seed)
    most = np.abs(observed).max()
    # Values that are equal up to rounding count as equal, which errs towards a larger p-value.
    drawn = (np.abs(shifts(random.permutation(n + k)[:k])).max() for _ in range(permutations))
    as_large = sum(value >= most - 1e-12 for value in drawn)
    return Drift((1 + as_large) / (permutations + 1), tuple(float(value) for value in observed))
