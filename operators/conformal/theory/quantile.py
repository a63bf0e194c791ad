"""Split conformal prediction: the threshold from calibration scores, p-values, and the smallest feasible level.

Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; the form used here is that of LofreeCP
(arXiv 2403.01216, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from operators.intervals import clopper_pearson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats: TypeAlias = NDArray[np.float64]

Level: TypeAlias = float | str | Decimal | Fraction
"""A miscoverage level alpha between 0 and 1; a float stands for the decimal number as written."""


class Feasibility(NamedTuple):
    """The smallest alpha with a finite threshold on this calibration set, and a 95% interval for another calibration set."""

    alpha: float
    low: float
    high: float


def exact(alpha: Level) -> Fraction:
    """Alpha as the rational number that was written: 0.1 is 1/10, not the nearest binary fraction.

    Raises:
        ValueError: alpha is not between 0 and 1, both excluded.
    """
    found = Fraction(repr(float(alpha))) if isinstance(alpha, float | int) else Fraction(alpha)
    if not 0 < found < 1:
        raise ValueError(f"alpha is {alpha}; it is a miscoverage level between 0 and 1, both excluded")
    return found


def rank(n: int, alpha: Level) -> int:
    """k = ceil((n + 1) (1 - alpha)), in rational numbers: the threshold is the k-th smallest of n calibration scores.

    In floating point, (n + 1) (1 - alpha) is often slightly above the integer that it should be, which makes k one too large.
    If k is n + 1, no finite threshold has the guarantee.
    """
    return ceil((n + 1) * (1 - exact(alpha)))


def quantiles(scores: ArrayLike, alphas: Sequence[Level]) -> Floats:
    """The threshold at each level: the k-th smallest calibration score, +inf if there are fewer than k.

    A new score that is exchangeable with these is at most the threshold with probability at least 1 - alpha, whatever the
    distribution.

    Args:
        scores: shape (n,), in any order; +inf for a true answer that was never sampled.
        alphas: levels.

    Returns:
        Shape (len(alphas),).

    Raises:
        ValueError: a score is NaN, or an alpha is out of range.
    """
    import numpy as np

    values = _scores(scores)
    ranks = [rank(len(values), alpha) for alpha in alphas]
    within = sorted({k - 1 for k in ranks if k <= len(values)})
    ordered = np.partition(values, within) if within else values
    return np.array([ordered[k - 1] if k <= len(values) else np.inf for k in ranks], dtype=np.float64)


def exceeding(calibration: ArrayLike, scores: ArrayLike) -> NDArray[np.int64]:
    """How many calibration scores are at least as large as each of `scores` (any shape)."""
    import numpy as np

    ordered = np.sort(_scores(calibration))
    values = np.asarray(scores, np.float64)
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    return (len(ordered) - np.searchsorted(ordered, values, side="left")).astype(np.int64)


def p_values(calibration: ArrayLike, scores: ArrayLike) -> Floats:
    """(1 + number of calibration scores at least as large) / (n + 1), for each of `scores` (any shape).

    A score is at most the threshold of `quantiles` exactly if its p-value is larger than alpha (compare rational numbers:
    `exceeding` has the numerators less 1).
    """
    import numpy as np

    size = len(np.asarray(calibration))
    return np.asarray((exceeding(calibration, scores) + 1) / (size + 1), dtype=np.float64)


def smallest_alpha(scores: ArrayLike, confidence: float = 0.95) -> Feasibility:
    """The smallest alpha for which the threshold is finite: (n mu + 1) / (n + 1), mu the share of infinite scores.

    The interval replaces mu by its Clopper-Pearson bounds: on another calibration set of this size, drawn in the
    same way, the smallest alpha is expected between them.

    Args:
        scores: shape (n,); +inf for a true answer that was never sampled. Without scores, nothing is feasible (1).
    """
    import numpy as np

    values = _scores(scores)
    n, missing = len(values), int(np.isinf(values).sum())
    low, high = clopper_pearson(missing, n, confidence)
    return Feasibility(*((n * mu + 1) / (n + 1) for mu in (missing / n if n else 0.0, low, high)))


def _scores(scores: ArrayLike) -> Floats:
    import numpy as np

    values = np.asarray(scores, np.float64)
    if values.ndim != 1:
        raise ValueError(f"calibration scores have one dimension, not {values.ndim}")
    if np.isnan(values).any():
        raise ValueError("a calibration score is NaN")
    return values
