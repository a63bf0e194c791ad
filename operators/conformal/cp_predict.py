"""Prediction sets for new questions, from a calibration that fits them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from engine.operator import Context, Reject, Table, derived, operator
from operators.conformal.binding import Part, alike, differences, must_vary, refusal
from operators.conformal.pools import FEATURES, answered, features
from operators.conformal.sets import OnInfeasible, by_level, measures, prediction_sets, rounded_up, tell
from operators.conformal.splits import digest
from operators.conformal.theory import Pools, Taxonomy, Weights, drift, scored
from operators.conformal.thresholds import Alphas, threshold_of
from operators.records import Calibration, PredictionSet, SampledAnswers


@operator(
    outputs={"sets": PredictionSet},
    encoders=["encoder"],
    uses=lambda params: ["encoder"] if params.similarity else [],
    aside=["calibration"],
)
async def cp_predict(
    samples: Table[SampledAnswers],
    calibration: Table[Calibration],
    ctx: Context,
    *,
    alphas: Alphas | None = None,
    on_infeasible: OnInfeasible | None = None,
    similarity: bool = True,
    allow: list[Part] = [],  # noqa: B006
    drift_level: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> AsyncIterator[PredictionSet]:
    """Prediction sets for sampled answers, with the thresholds of a calibration.

    Answers are read, merged and compared as they were for the calibration. Samples that were made with another model, prompt,
    sampling parameters or number of samples, or an encoder with other weights, are refused with what differs. (Where neither
    side says how it was made, there is nothing to compare.)

    `covered` is known where the rows have accepted answers. The guarantee is for questions that are exchangeable with those
    calibrated on; a permutation test compares entropy, the share of the most frequent answer and that of different answers.

    Metrics: as of cp_calibrate where answers are known; `drift_p_value` and `drift` by feature (in standard deviations of
    ranks, positive: higher than in the calibration); `calibrated_on`: questions that the calibration has seen.

    Source: LofreeCP (arXiv 2403.01216), section 3.

    Args:
        alphas: levels, of those that were calibrated; all of them by default.
        on_infeasible: in place of the calibration's.
        similarity: false for a calibration without similarities: then no encoder is needed.
        allow: parts in which samples may differ from the calibration's, at the price of the guarantee.
        drift_level: fail when the test's p-value is below this; 0 only reports it.
    """
    if len(calibration) != 1:
        raise Reject(f"it takes one calibration, and there are {len(calibration)}")
    if not len(samples):
        return
    known, rows = calibration[0], list(samples)
    if known.encoder is not None and not similarity:
        raise Reject("the calibration uses an encoder; leave out `similarity: false`")
    encoder = None if known.encoder is None else ctx.encoders["encoder"]
    found = differences(known.made, alike(rows))
    if encoder is not None and encoder.identity != known.encoder:
        found["encoder"] = f"{known.encoder} and {encoder.identity}"
    if refused := {part: said for part, said in found.items() if part not in allow}:
        raise Reject(f"{refusal(refused)}; `allow: [{', '.join(refused)}]` takes them as they are")
    certain = sum(entropy == 0 for entropy, *_ in known.features)
    must_vary(rows, max((certain + 1) / (len(known.features) + 1), 0.5))  # some ten easy questions may always come
    levels = _levels(known, alphas)
    read = await answered(
        rows, known.equivalence, encoder, known.min_similarity, distances=known.loss == "distance", tell=ctx.progress
    )
    _drift(ctx, known, read.pools, drift_level)
    seen = set(known.questions)
    ctx.report("calibrated_on", sum(digest(row.question) in seen for row in rows))
    groups = None if known.categories is None else Taxonomy(frozenset(known.categories))
    made: list[PredictionSet] = []
    for alpha in levels:
        here = [each for each in known.thresholds if each.alpha == alpha]
        scores, _ = scored(read.pools, Weights(here[0].entropy_weight, here[0].similarity_weight), known.none_of_these)
        choice = on_infeasible or known.on_infeasible
        limits = [threshold_of(here, groups, row) for row in rows]
        if choice == "fail" and not np.isfinite(limits).all():
            raise Reject(
                f"alpha {alpha:g} is infeasible; the smallest feasible one, over all questions, is "
                f"{rounded_up(known.smallest_alpha)}"
            )
        sets = prediction_sets(
            rows, read, scores, limits, alpha, method="lofree", on_infeasible=choice, none_of_these=known.none_of_these
        )
        for row, each in zip(rows, sets, strict=True):
            yield derived(each, row, known)
        made += sets
    for (_, alpha), sets in by_level(made).items():
        tell(ctx, measures(sets, alpha), f"alpha={alpha:g}")


def _levels(known: Calibration, alphas: Sequence[float] | None) -> list[float]:
    there = list(dict.fromkeys(each.alpha for each in known.thresholds))
    if unknown := [f"{alpha:g}" for alpha in alphas or () if alpha not in there]:
        raise Reject(
            f"alpha {', '.join(unknown)} was not calibrated; there are {', '.join(f'{alpha:g}' for alpha in there)} (alphas of "
            "cp_calibrate)"
        )
    return there if alphas is None else list(alphas)


def _drift(ctx: Context, known: Calibration, pools: Pools, level: float) -> None:
    found = drift(known.features, features(pools), seed=ctx.seed)
    ctx.report("drift_p_value", found.p_value)
    for feature, shift in zip(FEATURES, found.shifts, strict=True):
        ctx.report("drift", shift, feature)
    if found.p_value < level:
        told = ", ".join(f"{feature} {shift:+.2f}" for feature, shift in zip(FEATURES, found.shifts, strict=True))
        raise Reject(
            f"the new questions are not like those calibrated on: p = {found.p_value:g}, below drift_level {level:g} (shifts "
            f"in standard deviations of ranks: {told}). Calibrate on questions like these"
        )
