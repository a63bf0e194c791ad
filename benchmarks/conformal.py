"""How fast is the mathematics of prediction sets? `python -m benchmarks.conformal`

Prints milliseconds, the best of five: the threshold of 1,000,000 calibration scores, p-values of 1,000,000 new scores against them, and
the choice among 121 pairs of weights for 2,000 questions of 20 samples, at one level and at five.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from operators.conformal.theory import Pools, p_values, quantiles, tune


def questions(n: int, samples: int) -> Pools:
    """Random pools, as many different answers as fit."""
    random = np.random.default_rng(0)
    counts = np.zeros((n, samples), np.int64)
    for row in range(n):
        drawn = np.sort(np.bincount(random.choice(samples, samples, p=random.dirichlet(np.full(samples, 0.3)))))[::-1]
        counts[row, : len(drawn)] = drawn
    sampled = counts > 0
    similarity = random.random(counts.shape) * sampled
    similarity[:, 0] = 0
    correct = np.zeros(counts.shape, bool)
    correct[np.arange(n), random.integers(0, 3, n)] = True
    return Pools(counts, similarity, np.tile(np.arange(samples), (n, 1)), correct & sampled)


def best(function: Callable[[], object]) -> float:
    """The time of the fastest of five calls, in milliseconds."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def main() -> int:
    """Run the benchmark and print its results; returns the exit code."""
    random = np.random.default_rng(1)
    scores, fresh = random.random(1_000_000), random.random(1_000_000)
    pools = questions(2000, 20)
    print(f"threshold of 1,000,000 calibration scores: {best(lambda: quantiles(scores, [0.1])):.1f} ms")
    print(f"p-values of 1,000,000 scores against 1,000,000: {best(lambda: p_values(scores, fresh)):.0f} ms")
    print(f"121 pairs of weights x 2,000 questions x 20 samples, one level: {best(lambda: tune(pools, [0.1])):.0f} ms")
    print(f"the same, five levels: {best(lambda: tune(pools, [0.1, 0.2, 0.3, 0.4, 0.5])):.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
