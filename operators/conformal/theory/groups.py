"""Mondrian groups: a threshold for each group of questions, so that the guarantee holds within each of them.

Source: Vovk et al., Mondrian confidence machine, 2003. The guarantee needs groups that do not depend on the calibration
scores; the groups with thresholds of their own are therefore chosen on other questions (the tuning split).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OTHERS = "(others)"
"""The category of groups that are too small, and of groups that are new."""


@dataclass(frozen=True)
class Taxonomy:
    """The groups with their own categories; all others share the category OTHERS, and one guarantee."""

    kept: frozenset[str]

    def category(self, group: str | None) -> str:
        """The category of a group."""
        return group if group is not None and group in self.kept else OTHERS

    def masks(self, groups: Sequence[str | None]) -> dict[str, NDArray[np.bool_]]:
        """A mask of the questions in each category; categories without questions are included."""
        import numpy as np

        named = np.array([self.category(group) for group in groups], dtype=object)
        return {name: np.asarray(named == name, dtype=np.bool_) for name in [*sorted(self.kept), OTHERS]}


def taxonomy(groups: Sequence[str | None], minimum: float) -> Taxonomy:
    """The groups that occur at least `minimum` times.

    Args:
        groups: the groups of questions that are neither calibrated on nor predicted; None means no group.
        minimum: the smallest size of a group in the calibration split, times the ratio of the two splits' sizes.
    """
    counted = Counter(group for group in groups if group is not None)
    return Taxonomy(frozenset(group for group, number in counted.items() if number >= minimum))
