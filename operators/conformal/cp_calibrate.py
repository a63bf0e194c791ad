"""Calibrate prediction sets on sampled answers (LofreeCP), and see on other questions how good they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from engine.operator import Context, Reject, Table, derived, operator
from operators.conformal.baselines import all_options_scored, baselines
from operators.conformal.binding import alike, must_vary
from operators.conformal.equivalence import Equivalence
from operators.conformal.pools import Answered, answered, features
from operators.conformal.sets import OnInfeasible, by_level, measures, prediction_sets, rounded_up, tell
from operators.conformal.splits import Shares, digest, split
from operators.conformal.theory import (
    Feasibility,
    Taxonomy,
    Weights,
    coverage,
    coverage_band,
    quantiles,
    scored,
    smallest_alpha,
    smallest_risk,
    taxonomy,
    true_scores,
    tune,
)
from operators.conformal.thresholds import Alphas, threshold_of, thresholds_at
from operators.records import Calibration, PredictionSet, SampledAnswers, Threshold


@dataclass(frozen=True)
class _Side:
    """The questions of one side."""

    rows: list[SampledAnswers]
    found: Answered


def _problems(params: Any) -> list[str]:
    found = []
    if params.loss == "distance" and not params.similarity:
        found.append("loss: distance needs similarities; leave out `similarity: false`")
    if params.loss == "distance" and params.none_of_these:
        found.append("loss: distance and none_of_these do not go together")
    if params.group_by and not params.split.tune:
        found.append("group_by settles on the tuning split which groups are large enough; give `split` a share for `tune`")
    return found


@operator(
    outputs={"calibration": Calibration, "sets": PredictionSet, "baselines": PredictionSet},
    encoders=["encoder"],
    uses=lambda params: ["encoder"] if params.similarity or params.equivalence == "embedding" else [],
    checks=lambda params, records: _problems(params),
    families=["samples"],
)
async def cp_calibrate(
    samples: Table[SampledAnswers],
    ctx: Context,
    *,
    alphas: Alphas = [0.1, 0.2, 0.3, 0.4, 0.5],  # noqa: B006
    equivalence: Equivalence = "qa",
    min_similarity: Annotated[float, Field(gt=0, le=1)] = 0.85,
    similarity: bool = True,
    split: Shares = Shares(),  # noqa: B008
    on_infeasible: OnInfeasible = "abstain",
    none_of_these: bool = False,
    group_by: Literal["group"] | None = None,
    min_group: Annotated[int, Field(ge=1)] = 50,
    loss: Literal["missed", "distance"] = "missed",
) -> AsyncIterator[tuple[str, Calibration | PredictionSet]]:
    """Calibrate prediction sets: for each level alpha a threshold, so that a new question's set holds an accepted answer with
    probability at least 1 - alpha, whatever the model, if the question is exchangeable with those calibrated on.

    An answer scores -F + lambda1 NE - lambda2 SS: how often it was sampled, how spread the question's answers are, how similar
    it is to the most frequent one. The lambdas are those of a grid with the smallest mean set on the tuning split; the
    threshold is the k-th smallest score of the true answers of the calibration split, k = ceil((n + 1) (1 - alpha)). A truth
    that was never sampled scores +inf; a level below the smallest feasible alpha has no threshold. Of a question with
    options, what names none of them counts as a sample and is in no set.

    Splits are by question: paraphrases (rows that come from one row of a source, have one id, or the same words) count as one,
    and one of them is drawn. Samples that were made in different ways, or are all alike, are refused.

    Outputs: `calibration` for cp_predict, `sets` of the evaluation split, `baselines` the sets of other methods there
    (`method`: frequency, first_k, logits).

    Metrics by level (slice `alpha=0.1`), with ci_low and ci_high (95 %): `ecr` coverage, `apss` size, `ssm` worst miscoverage
    of sets of like size, `singletons`, `cov_gap` over groups, `risk`, `abstained`; of a baseline `frequency_ecr` and so on;
    `feasible`; `band_low` and `band_high`: where the coverage of exact sets lies. Over all: `pool_recall`, `smallest_alpha`,
    `questions`.

    Source: LofreeCP (arXiv 2403.01216), section 3; conformal risk control (arXiv 2208.02814).

    Args:
        alphas: levels of miscoverage.
        equivalence: when answers are the same: `exact` text; `qa`: the first line without case, punctuation, articles, and
            without accents where the question is in English and its answers do not differ in them; `math`: the final answer,
            verified; `embedding`: as `qa`, or as similar as `min_similarity`.
        min_similarity: cosine, for `embedding`.
        similarity: whether to use SS; without, no encoder is needed.
        split: shares to tune, calibrate and evaluate on.
        on_infeasible: where there is no threshold: `abstain` from a prediction, take all that was `sampled` (it covers too
            little), or `fail`.
        none_of_these: let "none of those that were sampled" be an answer, scored by Good and Turing's estimate; it makes every
            level from 1 / (n + 1) on feasible. Sets that hold it have `abstained`.
        group_by: give each `group` of questions its own thresholds and guarantee. Which groups stand on their own is settled on
            the tuning split; the others share one.
        min_group: questions of a group (expected in the calibration split) for that.
        loss: `missed` (no accepted answer in the set) or `distance`: 1 minus the similarity of the nearest answer in the set to
            an accepted one, whose mean is kept at or below alpha. Baselines are calibrated to cover all the same.
    """
    known = [row for row in samples if row.answers]
    families = [number for number, row in zip(samples.families, samples, strict=True) if row.answers]
    if not known:
        raise Reject("no question has accepted answers to calibrate on")
    if group_by and not any(row.group for row in known):
        raise Reject("no question has a `group` to group by")
    made = alike(known)
    must_vary(known)
    drawn = _split(known, families, split, ctx)
    encoder = ctx.encoders["encoder"] if similarity or equivalence == "embedding" else None
    distances = loss == "distance"
    every = [row for side in drawn for row in side]
    found = await answered(every, equivalence, encoder, min_similarity, distances=distances, tell=ctx.progress)
    tuning, calibration, evaluation = _sides(drawn, found)
    grid = {} if similarity else {"grid": tuple(Weights(step / 100, 0.0) for step in range(11))}
    chosen = tune(tuning.found.pools, alphas, **grid, unseen=none_of_these)
    groups = _taxonomy(tuning, calibration, min_group) if group_by else None
    feasible = _feasible(calibration.found, distances, none_of_these)
    ctx.report("pool_recall", float(np.mean(found.pools.found)))
    tell(ctx, {"evaluated_recall": coverage(evaluation.found.pools.found)}, "")
    for metric, value in zip(("smallest_alpha", "smallest_alpha_ci_low", "smallest_alpha_ci_high"), feasible, strict=True):
        ctx.report(metric, value)
    thresholds: list[Threshold] = []
    sets: list[PredictionSet] = []
    for alpha, tuned in zip(alphas, chosen, strict=True):
        here = thresholds_at(
            alpha, tuned.weights, calibration.rows, calibration.found, groups, none_of_these=none_of_these, loss=loss
        )
        thresholds += here
        if on_infeasible == "fail" and (missing := [each.category for each in here if each.threshold is None and each.n]):
            raise Reject(
                f"alpha {alpha:g} is infeasible for {', '.join(missing)}: the smallest feasible one, over all questions, is "
                f"{rounded_up(feasible.alpha)}; sample more answers, or set none_of_these or another alpha"
            )
        scores, _ = scored(evaluation.found.pools, tuned.weights, none_of_these)
        sets += prediction_sets(
            evaluation.rows,
            evaluation.found,
            scores,
            [threshold_of(here, groups, row) for row in evaluation.rows],
            alpha,
            method="lofree",
            on_infeasible=on_infeasible,
            none_of_these=none_of_these,
        )
    others = _baselines(calibration, evaluation, alphas, on_infeasible, by_option=all_options_scored(every))
    for (method, alpha), each in by_level([*sets, *others]).items():
        prefix = "" if method == "lofree" else f"{method}_"
        tell(ctx, {prefix + name: value for name, value in measures(each, alpha).items()}, f"alpha={alpha:g}")
    for alpha in alphas:
        finite = [each.threshold is not None for each in thresholds if each.alpha == alpha and each.n]
        ctx.report("feasible", float(all(finite)), f"alpha={alpha:g}")
        if groups is None and loss == "missed" and evaluation.rows:
            low, high = coverage_band(len(calibration.rows), len(evaluation.rows), alpha)
            ctx.report("band_low", low, f"alpha={alpha:g}")
            ctx.report("band_high", high, f"alpha={alpha:g}")
    record = Calibration(
        made=made,
        equivalence=equivalence,
        min_similarity=min_similarity,
        encoder=encoder.identity if encoder else None,
        thresholds=thresholds,
        categories=sorted(groups.kept) if groups else None,
        none_of_these=none_of_these,
        on_infeasible=on_infeasible,
        loss=loss,
        smallest_alpha=feasible.alpha,
        smallest_alpha_low=feasible.low,
        smallest_alpha_high=feasible.high,
        questions=[digest(row.question) for row in calibration.rows],
        features=features(calibration.found.pools).tolist(),
    )
    yield "calibration", derived(record, *tuning.rows, *calibration.rows)
    rows = {row.question: row for row in evaluation.rows}
    for output, made_sets in (("sets", sets), ("baselines", others)):
        for one in made_sets:
            yield output, derived(one, rows[one.question])


def _split(rows: Sequence[SampledAnswers], families: Sequence[int], shares: Shares, ctx: Context) -> list[list[SampledAnswers]]:
    drawn = split(rows, families, shares, ctx.seed)
    ctx.count("paraphrases", by=drawn.paraphrases)
    for side, numbers in drawn.rows.items():
        ctx.count("questions", side, by=len(numbers))
    if not drawn.rows["calibrate"]:
        raise Reject(f"none of the {len(rows)} questions falls into the calibration split; there are too few of them")
    return [[rows[number] for number in numbers] for numbers in drawn.rows.values()]


def _sides(drawn: Sequence[Sequence[SampledAnswers]], found: Answered) -> list[_Side]:
    sides, start = [], 0
    for rows in drawn:
        stop = start + len(rows)
        pools = found.pools.take(slice(start, stop))
        distance = None if found.distance is None else found.distance[start:stop]
        sides.append(_Side(list(rows), Answered(pools, found.texts[start:stop], distance)))
        start = stop
    return sides


def _feasible(found: Answered, distances: bool, none_of_these: bool) -> Feasibility:
    if found.distance is not None and distances:  # the loss of all that was sampled is the least that a set can have
        return smallest_risk(np.where(found.pools.candidates, found.distance, 1.0).min(axis=1, initial=1.0))
    return smallest_alpha(true_scores(*scored(found.pools, Weights(0.0, 0.0), none_of_these)))


def _taxonomy(tuning: _Side, calibration: _Side, min_group: int) -> Taxonomy:
    ratio = len(tuning.rows) / max(len(calibration.rows), 1)
    return taxonomy([row.group for row in tuning.rows], max(min_group * ratio, 1))


def _baselines(
    calibration: _Side, evaluation: _Side, alphas: Sequence[float], on_infeasible: OnInfeasible, *, by_option: bool
) -> list[PredictionSet]:
    before, after = (baselines(side.rows, side.found, by_option=by_option) for side in (calibration, evaluation))
    made = []
    for method in (each for each in before if each in after):
        levels = quantiles(true_scores(before[method].scores, before[method].found.pools.correct), alphas)
        for alpha, threshold in zip(alphas, levels, strict=True):
            made += prediction_sets(
                evaluation.rows,
                after[method].found,
                after[method].scores,
                [float(threshold)] * len(evaluation.rows),
                alpha,
                method=method,
                on_infeasible=on_infeasible,
            )
    return made
