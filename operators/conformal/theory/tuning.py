"""Chooses the weights of LofreeCP's score: those with the smallest mean set on questions that are used for nothing else.

Source: LofreeCP (arXiv 2403.01216): lambda1 from 0 to 0.10, lambda2 from 0 to 0.20, 11 values each (its public code).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from operators.conformal.theory.quantile import Level, quantiles
from operators.conformal.theory.scores import (
    Pools,
    lofree_scores,
    normalised_entropy,
    true_scores,
    unseen_scores,
)

if TYPE_CHECKING:
    import numpy as np

    from operators.conformal.theory.scores import Floats


class ScoreWeights(NamedTuple):
    """lambda1 (of the normalised entropy) and lambda2 (of the similarity)."""

    entropy: float
    similarity: float


class Tuned(NamedTuple):
    """The chosen weights at a level, and the mean size of their sets on the tuning questions."""

    weights: ScoreWeights
    size: float


GRID: tuple[ScoreWeights, ...] = tuple(ScoreWeights(i / 100, j / 50) for i, j in product(range(11), range(11)))
"""121 pairs, the smallest weights first."""


def scored(pools: Pools, weights: ScoreWeights, unseen: bool = False) -> tuple[Floats, np.ndarray]:
    """(scores, which of them are of true answers), with a last column for "none of these" if that is an answer."""
    import numpy as np

    scores = lofree_scores(pools, *weights)
    if not unseen:
        return scores, pools.correct
    none = unseen_scores(pools, weights.entropy)[:, None]
    return np.hstack([scores, none]), np.hstack([pools.correct, ~pools.found[:, None]])


def tune(pools: Pools, alphas: Sequence[Level], grid: Sequence[ScoreWeights] = GRID, *, unseen: bool = False) -> list[Tuned]:
    """For each level, the weights with the smallest mean set, or the first of several in the grid.

    If no weights give a finite threshold, all sets contain everything, and the first weights of the grid are chosen.

    Args:
        pools: the tuning questions; the thresholds for the comparison are computed on them as well.
        unseen: whether "none of these" is an answer, see `unseen_scores`.
    """
    import numpy as np

    best: list[Tuned | None] = [None] * len(alphas)
    entropy = normalised_entropy(pools)[:, None]
    base, candidates = -pools.frequency, pools.candidates
    for weights in grid:
        scores = np.where(candidates, base + weights.entropy * entropy - weights.similarity * pools.similarity, np.inf)
        correct = pools.correct
        if unseen:
            scores, correct = scored(pools, weights, unseen=True)
        ordered = np.sort(scores[np.isfinite(scores)])
        thresholds = quantiles(true_scores(scores, correct), alphas)
        for place, threshold in enumerate(thresholds):
            size = float(np.searchsorted(ordered, threshold, side="right")) / max(len(pools), 1)
            known = best[place]
            if known is None or size < known.size:
                best[place] = Tuned(weights, size)
    assert all(best), "the grid has no weights"
    return [each for each in best if each is not None]
