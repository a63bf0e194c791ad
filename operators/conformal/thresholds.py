"""The thresholds of a calibration: at a level, for all questions or for each category of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import AfterValidator, Field

from operators.conformal.pools import Answered
from operators.conformal.theory import ScoreWeights, Taxonomy, quantiles, risk_threshold, scored, true_scores
from operators.records import SampledAnswers, Threshold

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EVERY = "(all)"
"""The only category if there are no groups."""


def _distinct(alphas: list[float]) -> list[float]:
    if twice := [f"{alpha:g}" for place, alpha in enumerate(alphas) if alpha in alphas[:place]]:
        raise ValueError(f"{', '.join(twice)} is repeated")
    return alphas


Alphas: TypeAlias = Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1), AfterValidator(_distinct)]
"""Levels of miscoverage."""


def thresholds_at(
    alpha: float,
    weights: ScoreWeights,
    rows: Sequence[SampledAnswers],
    found: Answered,
    groups: Taxonomy | None,
    *,
    none_of_these: bool,
    loss: str,
) -> list[Threshold]:
    """The threshold of each category at a level.

    Args:
        alpha: the level.
        weights: the weights of the score.
        rows, found: the questions to calibrate on.
        groups: the categories; None puts all questions into one category.
        none_of_these: whether "none of these" is an answer.
        loss: `missed`, or `distance` for risk control.
    """
    import numpy as np

    masks = groups.masks([row.group for row in rows]) if groups else {EVERY: np.ones(len(rows), np.bool_)}
    scores, correct = scored(found.pools, weights, none_of_these)
    true = true_scores(scores, correct)
    made = []
    for category, inside in masks.items():
        if loss == "distance":
            assert found.distance is not None
            value = risk_threshold(scores[inside], _nearest(scores[inside], found.distance[inside]), alpha)
        else:
            value = float(quantiles(true[inside], [alpha])[0])
        made.append(
            Threshold(
                alpha=alpha,
                category=category,
                n=int(inside.sum()),
                unsampled=int(np.isinf(true[inside]).sum()),
                entropy_weight=weights.entropy,
                similarity_weight=weights.similarity,
                threshold=None if np.isinf(value) else value,
            )
        )
    return made


def threshold_of(thresholds: Sequence[Threshold], groups: Taxonomy | None, row: SampledAnswers) -> float:
    """The threshold of a row at a level; +inf if there is none."""
    category = groups.category(row.group) if groups else EVERY
    value = next((each.threshold for each in thresholds if each.category == category), None)
    return float("inf") if value is None else value


def _nearest(scores: NDArray[np.float64], distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, a) for each answer, the smallest distance among it and the answers with lower scores."""
    import numpy as np

    order = np.argsort(scores, axis=1, kind="stable")
    ranked = np.minimum.accumulate(np.take_along_axis(distance, order, 1), axis=1)
    back = np.empty_like(ranked)
    np.put_along_axis(back, order, ranked, 1)
    return back
