"""Shares with their 95% Wilson intervals, as numbers, text and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from engine.operator import Metric
from operators.intervals import wilson


class Share(NamedTuple):
    """A share of `n` trials and its interval; without trials it is 0, with the interval 0 to 1."""

    value: float
    low: float
    high: float
    n: float

    @classmethod
    def of(cls, successes: float, trials: float) -> Share:
        """The share of successes among trials."""
        return cls(successes / trials if trials else 0.0, *wilson(successes, trials), trials)

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})" if self.n else "-"

    def metrics(self, name: str, slice: str = "") -> Iterator[Metric]:
        """`name`, `name_ci_low` and `name_ci_high`; nothing when there are no trials."""
        if self.n:
            for metric, value in ((name, self.value), (f"{name}_ci_low", self.low), (f"{name}_ci_high", self.high)):
                yield Metric(metric=metric, slice=slice, value=value)
