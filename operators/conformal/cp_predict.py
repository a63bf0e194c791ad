"""Predict sets of answers to new questions with a matching calibration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from pydantic import Field

from engine.operator import Context, Encoder, Lookup, Params, Reject, Table, derived, operator
from operators.conformal.compatibility import Part, common_sampling, differences, refusal, require_variation
from operators.conformal.pools import FEATURES, answered, features
from operators.conformal.sets import OnInfeasible, by_level, measures, prediction_sets, report, rounded_up
from operators.conformal.splits import digest
from operators.conformal.theory import Pools, ScoreWeights, Taxonomy, drift, scored
from operators.conformal.thresholds import Alphas, threshold_of
from operators.records import Calibration, PredictionSet, SampledAnswers


class PredictParams(Params):
    """Parameters of cp_predict."""

    alphas: Alphas | None = None
    on_infeasible: OnInfeasible | None = None
    similarity: bool = True
    allow: list[Part] = []
    drift_level: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def roles(self) -> set[str]:
        """The encoder, if similarities are used."""
        return {"encoder"} if self.similarity else set()


@operator(outputs={"sets": PredictionSet})
async def cp_predict(
    samples: Table[SampledAnswers],
    calibration: Lookup[Calibration],
    ctx: Context,
    encoder: Encoder | None,
    params: PredictParams,
) -> AsyncIterator[PredictionSet]:
    """Make prediction sets for sampled answers, with the thresholds of a calibration.

    Answers are read, merged and compared as for the calibration. It is an error if the samples were made with another model,
    prompt, sampling parameters or number of samples, or if the encoder has other weights; the text says what differs. (If
    neither side records how it was made, nothing is compared.)

    `covered` is filled in for rows with accepted answers. The guarantee holds for questions that are exchangeable with the
    calibration questions; a permutation test compares the entropy, the share of the most frequent answer and the share of
    different answers.

    Metrics: those of cp_calibrate, if answers are known; `drift_p_value`, and `drift` by feature (in standard deviations of
    ranks; positive: higher than in the calibration); `calibrated_on`, the number of questions that the calibration contains.

    Source: LofreeCP (arXiv 2403.01216), section 3.

    Args:
        alphas: some of the calibrated levels; all by default.
        on_infeasible: overrides the calibration's setting.
        similarity: false for a calibration without similarities, which needs no encoder.
        allow: parts in which samples may differ from the calibration's, without the guarantee.
        drift_level: fail if the p-value of the test is below this; 0 only reports it.
    """
    import numpy as np

    if len(calibration) != 1:
        raise Reject(f"expected one calibration, but the input has {len(calibration)} rows")
    if not len(samples):
        return
    known, rows = calibration[0], list(samples)
    if known.encoder is not None and encoder is None:
        raise Reject("the calibration uses an encoder; remove `similarity: false`")
    encoder = None if known.encoder is None else encoder
    found = differences(known.made, common_sampling(rows))
    if encoder is not None and encoder.identity != known.encoder:
        found["encoder"] = f"{known.encoder} and {encoder.identity}"
    if refused := {part: text for part, text in found.items() if part not in params.allow}:
        raise Reject(f"{refusal(refused)}; to use them without the guarantee, set `allow: [{', '.join(refused)}]`")
    certain = sum(entropy == 0 for entropy, *_ in known.features)
    require_variation(rows, max((certain + 1) / (len(known.features) + 1), 0.5))  # about ten easy questions may always occur
    levels = _levels(known, params.alphas)
    read = await answered(
        rows, known.equivalence, encoder, known.min_similarity, distances=known.loss == "distance", progress=ctx.progress
    )
    _drift(ctx, known, read.pools, params.drift_level)
    seen = set(known.questions)
    ctx.report("calibrated_on", sum(digest(row.question) in seen for row in rows))
    groups = None if known.categories is None else Taxonomy(frozenset(known.categories))
    made: list[PredictionSet] = []
    for alpha in levels:
        here = [each for each in known.thresholds if each.alpha == alpha]
        scores, _ = scored(read.pools, ScoreWeights(here[0].entropy_weight, here[0].similarity_weight), known.none_of_these)
        choice = params.on_infeasible or known.on_infeasible
        limits = [threshold_of(here, groups, row) for row in rows]
        if choice == "fail" and not np.isfinite(limits).all():
            raise Reject(
                f"alpha {alpha:g} is infeasible; the smallest feasible alpha for all questions is "
                f"{rounded_up(known.smallest_alpha)}"
            )
        sets = prediction_sets(
            rows, read, scores, limits, alpha, method="lofree", on_infeasible=choice, none_of_these=known.none_of_these
        )
        for row, each in zip(rows, sets, strict=True):
            yield derived(each, row, known)
        made += sets
    for (_, alpha), sets in by_level(made).items():
        report(ctx, measures(sets, alpha), f"alpha={alpha:g}")


def _levels(known: Calibration, alphas: Sequence[float] | None) -> list[float]:
    there = list(dict.fromkeys(each.alpha for each in known.thresholds))
    if unknown := [f"{alpha:g}" for alpha in alphas or () if alpha not in there]:
        known_levels = ", ".join(f"{alpha:g}" for alpha in there)
        raise Reject(
            f"alpha {', '.join(unknown)} was not calibrated; the calibrated levels are {known_levels} (alphas of cp_calibrate)"
        )
    return there if alphas is None else list(alphas)


def _drift(ctx: Context, known: Calibration, pools: Pools, level: float) -> None:
    found = drift(known.features, features(pools), seed=ctx.seed)
    ctx.report("drift_p_value", found.p_value)
    for feature, shift in zip(FEATURES, found.shifts, strict=True):
        ctx.report("drift", shift, feature)
    if found.p_value < level:
        shifts = ", ".join(f"{feature} {shift:+.2f}" for feature, shift in zip(FEATURES, found.shifts, strict=True))
        raise Reject(
            f"the new questions differ from the calibration questions: p = {found.p_value:g}, below drift_level {level:g} "
            f"(shifts in standard deviations of ranks: {shifts}). Calibrate on questions like the new ones"
        )
