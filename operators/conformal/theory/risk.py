"""Conformal risk control: a threshold that keeps the expected value of a bounded loss at or below a level.

Source: Angelopoulos, Bates, Fisch, Lei and Schuster, Conformal Risk Control (arXiv 2208.02814), theorem 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from operators.conformal.theory.measures import average_size
from operators.conformal.theory.quantile import Feasibility, Level, exact

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def risk_threshold(scores: ArrayLike, losses: ArrayLike, alpha: Level) -> float:
    """The smallest threshold t with (sum of losses at t + 1) / (n + 1) <= alpha; +inf if there is none.

    The loss of a question is between 0 and 1, is 1 for the empty set, and must not grow with the set. With the loss "the true
    answer is not in the set" this is the threshold of `quantiles`.

    Args:
        scores: (n, a), +inf where a question has no further answer.
        losses: (n, a) the loss of the set of all answers that score at most as much as this one.
        alpha: the level of the expected loss on a new question.

    Raises:
        ValueError: a loss is not between 0 and 1, or grows with the set.
    """
    import numpy as np

    score, loss = np.asarray(scores, np.float64), np.asarray(losses, np.float64)
    order = np.argsort(score, axis=1, kind="stable")
    score, loss = np.take_along_axis(score, order, 1), np.take_along_axis(loss, order, 1)
    real = np.isfinite(score)
    if real.any() and (loss[real].min() < 0 or loss[real].max() > 1):
        raise ValueError("a loss is not between 0 and 1")
    steps = np.diff(np.where(real, loss, np.nan), axis=1, prepend=1.0)
    if (steps > 1e-12).any():
        raise ValueError("a loss grows with the set")
    flat, change = score[real], steps[real]
    by_score = np.argsort(flat, kind="stable")
    flat, total = flat[by_score], len(score) + np.cumsum(change[by_score])
    last = np.append(flat[1:] != flat[:-1], True) if len(flat) else np.empty(0, bool)  # equal scores enter together
    limit = float(exact(alpha) * (len(score) + 1) - 1)
    good = flat[last & (total <= limit + _ROUNDING)]
    return float(good[0]) if len(good) else float("inf")


def smallest_risk(losses: ArrayLike) -> Feasibility:
    """The smallest alpha with a finite threshold: (n mean + 1) / (n + 1), and a 95% interval for another calibration set.

    Args:
        losses: (n,) the loss of each question's largest set, 0 to 1. Without questions, nothing is feasible (1).
    """
    import numpy as np

    values = np.asarray(losses, np.float64)
    n = len(values)
    mean = average_size(values) if n else None
    bounds = (mean.value, *np.clip((mean.low, mean.high), 0.0, 1.0)) if mean else (0.0, 0.0, 1.0)
    return Feasibility(*(float((n * each + 1) / (n + 1)) for each in bounds))


_ROUNDING = 1e-9
"""The rounding error of a sum of losses."""
