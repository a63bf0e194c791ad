"""Confidence intervals of shares."""

from __future__ import annotations


def wilson(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    from scipy.stats import binomtest

    found = binomtest(round(successes), round(trials)).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def clopper_pearson(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson 1934); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    from scipy.stats import binomtest

    found = binomtest(round(successes), round(trials)).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)
