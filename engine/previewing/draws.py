"""The statistics of forecasts: 1,000 runs are drawn; the 10th and 90th percentiles bound an 80 % interval.

* A draw of the rows that a preview has not seen is one of the finite population Bayesian bootstrap (Lo, "A Bayesian bootstrap
  for a finite population", Annals of Statistics 1988): the sampled rows of a source get weights from a flat Dirichlet
  distribution, and the N - n others are drawn with these weights. Whatever descends from a sampled row, in any step, stays
  together, so that a row that survives costs its calls in all steps. If all rows were seen, nothing is uncertain.
* Where all of n rows survived so far, or none, no draw would show the opposite. So in every second draw, the survival comes
  from Beta(n + 1/2, 1/2), or its mirror image: the posterior of Jeffreys' prior (Brown, Cai and DasGupta, Statistical Science
  2001). In the others it is what was seen: many operators keep every row.
* A few rows understate the spread. An interval is widened around its middle, on a logarithmic scale, by
  sqrt((n + 1) / (n - 1)), which makes the variance of the mean unbiased (Rubin, Annals of Statistics 1981), times the ratio of
  Student's quantile with n - 1 degrees of freedom to the normal one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.previewing.results import Interval, Sampled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Draws = NDArray[np.float64]

DRAWS = 1000
LOW, HIGH = 10, 90
"""The percentiles of the draws that bound an interval."""

_Z = 1.2815515655446004
"""The normal quantile of 90 %. Student's follows from it (Abramowitz and Stegun, 26.7.5), except for few degrees of freedom."""

_STUDENT = {1: 3.077684, 2: 1.885618}


@dataclass(frozen=True)
class Amount:
    """An amount in each draw, and the amount to expect."""

    draws: Draws
    expected: float

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.draws + other.draws, self.expected + other.expected)

    def times(self, factor: float) -> Amount:
        """The amount times a factor, in each draw."""
        return Amount(self.draws * factor, self.expected * factor)


def constant(amount: float) -> Amount:
    """An amount that is certain."""
    import numpy as np

    return Amount(np.full(DRAWS, float(amount)), float(amount))


def at_least(one: Amount, other: Amount) -> Amount:
    """The larger one in each draw."""
    import numpy as np

    return Amount(np.maximum(one.draws, other.draws), max(one.expected, other.expected))


class Population:
    """The rows that the run adds to those of a preview, in all draws.

    Args:
        sampled: the versions of which rows were drawn; `rows` is the number that they have now.
        random: the draws come from it.
    """

    def __init__(self, sampled: Sequence[Sampled], random: np.random.Generator) -> None:
        import numpy as np

        self.sampled = sampled
        parts, expected = [np.zeros((DRAWS, 0))], [np.zeros(0)]
        self.survival: list[Draws] = []
        self.extinction: list[Draws] = []
        self.owner: list[int] = []
        for number, (_, rows, drawn) in enumerate(sampled):
            left = max(0, rows - drawn)
            if drawn:
                weights = random.dirichlet(np.ones(drawn), DRAWS)
                parts.append(random.multinomial(left, weights).astype(np.float64))
                expected.append(np.full(drawn, left / drawn))
            every = random.random(DRAWS) < 0.5
            lost = random.beta(0.5, drawn + 0.5, DRAWS)
            self.survival.append(np.where(every, 1.0, 1 - lost))
            self.extinction.append(np.where(every, 0.0, lost * left))
            self.owner += [number] * drawn
        self.added = np.concatenate(parts, axis=1)
        self.expected = np.concatenate(expected)

    @property
    def is_complete(self) -> bool:
        """Whether the preview had all rows."""
        return all(drawn >= rows for _, rows, drawn in self.sampled)

    @property
    def drawn(self) -> int:
        """The number of sampled rows."""
        return len(self.owner)

    def amount(self, of_each: Sequence[float], fixed: float, *, again: bool, survival: Draws | float) -> Amount:
        """An amount that the run adds; with `again`, the preview's own rows count once more."""
        import numpy as np

        x = np.array(of_each, np.float64)
        draws = (self.added @ x) * survival + fixed
        expected = float(self.expected @ x) + fixed
        return Amount(draws + x.sum(), expected + float(x.sum())) if again else Amount(draws, expected)


def interval(amount: Amount, rows: int) -> Interval:
    """An amount with its 80 % interval.

    Args:
        rows: the size of the sample that the draws come from.
    """
    import numpy as np

    low, middle, high = (float(each) for each in np.percentile(amount.draws, [LOW, 50, HIGH]))
    expected = amount.expected
    if low == high:
        return Interval(expected, low, high)
    wider = widening(rows)
    if low > 0:
        low, high = middle * (low / middle) ** wider, middle * (high / middle) ** wider
    else:
        low, high = max(0.0, middle - wider * (middle - low)), middle + wider * (high - middle)
    return Interval(expected, min(low, expected), max(high, expected))


def widening(rows: int) -> float:
    """How much wider an interval is than the draws show, if they come from that many rows (0: from none)."""
    if rows < 1:
        return 1.0
    free = max(1, rows - 1)
    z, z2 = _Z, _Z * _Z
    student = z + z * (z2 + 1) / (4 * free) + z * (5 * z2 * z2 + 16 * z2 + 3) / (96 * free * free)
    return float(((rows + 1) / free) ** 0.5 * _STUDENT.get(free, student) / z)
