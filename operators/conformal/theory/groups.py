"""Mondrian groups: a threshold for each group of questions, so that the guarantee holds within each of them.

Source: Vovk et al., Mondrian confidence machine, 2003. The guarantee needs groups that do not depend on the calibration
scores; which groups stand on their own is therefore settled on other questions (the tuning split).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OTHERS = "(others)"
"""The category of all groups that are too small, and of those that are new."""


@dataclass(frozen=True)
class Taxonomy:
    """Which groups stand on their own; all others share the category OTHERS and the guarantee over it as a whole."""

    kept: frozenset[str]

    def category(self, group: str | None) -> str:
        """The category of a group."""
        return group if group is not None and group in self.kept else OTHERS

    def masks(self, groups: Sequence[str | None]) -> dict[str, NDArray[np.bool_]]:
        """By category which of these it holds; categories without any are there, too (a mask of False)."""
        named = np.array([self.category(group) for group in groups], dtype=object)
        return {name: np.asarray(named == name, dtype=np.bool_) for name in [*sorted(self.kept), OTHERS]}


def taxonomy(groups: Sequence[str | None], minimum: float) -> Taxonomy:
    """The groups that occur at least `minimum` times.

    Args:
        groups: of questions that are neither calibrated on nor predicted; None is no group.
        minimum: the wanted size of a group in the calibration split, times the ratio of the two splits' sizes.
    """
    counted = Counter(group for group in groups if group is not None)
    return Taxonomy(frozenset(group for group, number in counted.items() if number >= minimum))
