"""Builds prediction sets from scores and thresholds, and measures their quality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Literal

from engine.operator import Context
from operators.conformal.pools import Answered
from operators.conformal.theory import (
    Estimate,
    average_size,
    coverage,
    coverage_gap,
    singleton_share,
    size_stratified_miscoverage,
)
from operators.records import PredictionSet, SampledAnswers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OnInfeasible = Literal["abstain", "sampled", "fail"]


def prediction_sets(
    rows: Sequence[SampledAnswers],
    found: Answered,
    scores: NDArray[np.float64],
    thresholds: Sequence[float],
    alpha: float,
    *,
    method: str,
    on_infeasible: OnInfeasible,
    none_of_these: bool = False,
) -> list[PredictionSet]:
    """One set for each row.

    Args:
        rows: the questions.
        found: their pools.
        scores: (n, a), with a last column for "none of these" if it is an answer.
        thresholds: one for each row; +inf if there is none at this level.
        alpha: the level.
        method: the name of the method.
        on_infeasible: `sampled` predicts all sampled answers; otherwise the prediction is empty, with `covered` null.
        none_of_these: whether "none of these" is an answer.
    """
    import numpy as np

    made = []
    for place, (row, threshold) in enumerate(zip(rows, thresholds, strict=True)):
        texts = found.texts[place]
        inside = scores[place, : len(texts)] <= threshold
        right = found.pools.correct[place, : len(texts)]
        abstained = none_of_these and bool(scores[place, -1] <= threshold)
        covered: bool | None = bool((inside & right).any() or (abstained and not right.any()))
        if np.isinf(threshold):
            inside = found.pools.candidates[place, : len(texts)] & (on_infeasible == "sampled")
            abstained = on_infeasible != "sampled"
            covered = None if abstained else bool((inside & right).any())
        loss = None
        if found.distance is not None and not (np.isinf(threshold) and abstained):
            loss = float(found.distance[place, : len(texts)][inside].min(initial=1.0)) if row.answers else None
        order = np.argsort(scores[place, : len(texts)], kind="stable")
        made.append(
            PredictionSet(
                question=row.question,
                alpha=alpha,
                prediction=[texts[answer] for answer in order if inside[answer]],
                abstained=abstained,
                covered=covered if row.answers else None,
                group=row.group,
                id=row.id,
                method=method,
                loss=loss,
            )
        )
    return made


def measures(sets: Sequence[PredictionSet], alpha: float) -> dict[str, Estimate | float]:
    """The measures of a method's sets at one level; sets without a threshold do not count.

    `ecr`, `apss`, `ssm`, `singletons`, `cov_gap` (with groups), `risk` (with a loss), `abstained`.
    """
    import numpy as np

    given = [each for each in sets if each.covered is not None]
    sizes = [len(each.prediction) for each in given]
    covered = [bool(each.covered) for each in given]
    found: dict[str, Estimate | float] = {}
    if given:
        found |= {
            "ecr": coverage(covered),
            "apss": average_size(sizes),
            "ssm": size_stratified_miscoverage(sizes, covered),
            "singletons": singleton_share(sizes),
        }
        if any(each.group for each in given):
            found["cov_gap"] = coverage_gap(covered, [each.group or "" for each in given], alpha)
        if losses := [each.loss for each in given if each.loss is not None]:
            found["risk"] = average_size(losses)
    return found | {"abstained": float(np.mean([each.abstained for each in sets])) if sets else 0.0}


def report(ctx: Context, found: Mapping[str, Estimate | float], slice: str) -> None:
    """Report measures, with `_ci_low` and `_ci_high`; measures without a value are left out."""
    import numpy as np

    for name, value in found.items():
        if not isinstance(value, Estimate):
            ctx.report(name, value, slice)
        elif not np.isnan(value.value):
            for metric, number in zip((name, f"{name}_ci_low", f"{name}_ci_high"), value, strict=True):
                ctx.report(metric, number, slice)


def rounded_up(alpha: float) -> str:
    """A smallest feasible level, rounded up to three decimals so that it stays feasible."""
    return f"{ceil(alpha * 1000 - 1e-9) / 1000:.3f}"


def by_level(sets: Iterable[PredictionSet]) -> dict[tuple[str, float], list[PredictionSet]]:
    """Sets by method and level, in order."""
    found: dict[tuple[str, float], list[PredictionSet]] = {}
    for each in sets:
        found.setdefault((each.method, each.alpha), []).append(each)
    return found
