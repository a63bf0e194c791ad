"""Calibrate prediction sets on sampled answers (LofreeCP), and evaluate them on other questions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from engine.operator import Context, Encoder, Grouped, InputTypes, Params, Reject, derived, operator
from operators.conformal.baselines import all_options_scored, baselines
from operators.conformal.compatibility import common_sampling, require_variation
from operators.conformal.equivalence import Equivalence
from operators.conformal.pools import Answered, answered, features
from operators.conformal.sets import OnInfeasible, by_level, measures, prediction_sets, report, rounded_up
from operators.conformal.splits import Shares, digest, split
from operators.conformal.theory import (
    Estimate,
    Feasibility,
    ScoreWeights,
    Taxonomy,
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
from registry.counted import counted


@dataclass(frozen=True)
class _Side:
    """The questions of one side of the split."""

    rows: list[SampledAnswers]
    found: Answered


class CalibrateParams(Params):
    """Parameters of cp_calibrate."""

    alphas: Alphas = [0.1, 0.2, 0.3, 0.4, 0.5]
    equivalence: Equivalence = "qa"
    min_similarity: Annotated[float, Field(gt=0, le=1)] = 0.85
    similarity: bool = True
    split: Shares = Shares()
    on_infeasible: OnInfeasible = "abstain"
    none_of_these: bool = False
    group_by: Literal["group"] | None = None
    min_group: Annotated[int, Field(ge=1)] = 50
    loss: Literal["missed", "distance"] = "missed"

    def roles(self) -> set[str]:
        """The encoder, if similarities are used."""
        return {"encoder"} if self.similarity or self.equivalence == "embedding" else set()

    def problems(self, inputs: InputTypes) -> Iterator[str]:
        """Parameters that cannot be combined."""
        if self.loss == "distance" and not self.similarity:
            yield "loss: distance needs similarities; remove `similarity: false`"
        if self.loss == "distance" and self.none_of_these:
            yield "loss: distance and none_of_these cannot be combined"
        if self.group_by and not self.split.tune:
            yield "group_by needs the tuning split to see which groups are large enough; set `tune` in `split` above 0"


@operator(outputs={"calibration": Calibration, "sets": PredictionSet, "baselines": PredictionSet})
async def cp_calibrate(
    samples: Grouped[SampledAnswers], ctx: Context, encoder: Encoder | None, params: CalibrateParams
) -> AsyncIterator[tuple[str, Calibration | PredictionSet]]:
    """Calibrate prediction sets: find a threshold for each level alpha, so that the set of a new question contains an accepted
    answer with probability at least 1 - alpha, whatever the model, if the question is exchangeable with the calibration
    questions.

    The score of an answer is -F + lambda1 NE - lambda2 SS: how often it was sampled, how spread out the question's answers are,
    and how similar it is to the most frequent answer. The lambdas are those of a grid that give the smallest mean set size on
    the tuning split. The threshold is the k-th smallest score of the true answers in the calibration split,
    k = ceil((n + 1) (1 - alpha)). A true answer that was never sampled scores +inf; a level below the smallest feasible alpha
    has no threshold. If a question has options, a sample that names none of them counts as a sample but is never in a set.

    Splits are by question: paraphrases (rows with the same source row, the same id or the same words) count as one question,
    and one of them is drawn. It is an error if samples were made in different ways, or are all equal.

    Outputs: `calibration` for cp_predict, `sets` for the evaluation split, and `baselines`, the sets of other methods for the
    same questions (`method`: frequency, first_k, logits).

    Metrics by level (slice `alpha=0.1`), with `_ci_low` and `_ci_high` (95%): `ecr` coverage, `apss` size, `ssm` worst
    miscoverage among sets of similar size, `singletons`, `cov_gap` over groups, `risk`, `abstained`; for a baseline
    `frequency_ecr` and so on; `feasible`; `ecr_target`, 1 - alpha, and `ecr_band_low` and `ecr_band_high`, the range of the
    coverage of exact sets. Over all questions: `pool_recall`, `smallest_alpha`, `questions`.

    Source: LofreeCP (arXiv 2403.01216), section 3; conformal risk control (arXiv 2208.02814).

    Args:
        alphas: levels of miscoverage.
        equivalence: when two answers count as the same: `exact`: equal text; `qa`: equal first line without case, punctuation
            and articles, and without accents if the question is in English and its answers do not differ in accents only;
            `math`: equal final answer, verified; `embedding`: equal under `qa`, or at least as similar as `min_similarity`.
        min_similarity: the cosine similarity for `embedding`.
        similarity: whether to use SS, which needs an encoder.
        split: the shares of questions to tune, calibrate and evaluate on.
        on_infeasible: what to do at a level without a threshold: `abstain` from a prediction, predict all `sampled` answers
            (whose coverage is too low), or `fail`.
        none_of_these: whether "none of the sampled answers" is an answer, scored by Good and Turing's estimate. Every level
            of 1 / (n + 1) or more is then feasible. Sets that contain it have `abstained`.
        group_by: gives each `group` of questions its own thresholds and guarantee. The tuning split decides which groups are
            large enough; the others share one threshold.
        min_group: the smallest expected number of calibration questions with which a group gets its own threshold.
        loss: `missed`: no accepted answer is in the set; `distance`: 1 minus the similarity between an accepted answer and the
            nearest answer in the set, whose mean is kept at or below alpha. Baselines are always calibrated for coverage.
    """
    import numpy as np

    known = [row for row in samples if row.answers]
    source_groups = [number for number, row in zip(samples.groups, samples, strict=True) if row.answers]
    if not known:
        raise Reject("no question has accepted answers, so there is nothing to calibrate on")
    if params.group_by and not any(row.group for row in known):
        raise Reject("group_by: no question has a `group`")
    made = common_sampling(known)
    require_variation(known)
    drawn = _split(known, source_groups, params.split, ctx)
    distances = params.loss == "distance"
    every = [row for side in drawn for row in side]
    found = await answered(
        every, params.equivalence, encoder, params.min_similarity, distances=distances, progress=ctx.progress
    )
    tuning, calibration, evaluation = _sides(drawn, found)
    grid = {} if params.similarity else {"grid": tuple(ScoreWeights(step / 100, 0.0) for step in range(11))}
    chosen = tune(tuning.found.pools, params.alphas, **grid, unseen=params.none_of_these)
    groups = _taxonomy(tuning, calibration, params.min_group) if params.group_by else None
    feasible = _feasible(calibration.found, distances, params.none_of_these)
    overall: dict[str, Estimate | float] = {
        "pool_recall": float(np.mean(found.pools.found)),
        "evaluated_recall": coverage(evaluation.found.pools.found),
        "smallest_alpha": Estimate(*feasible),
    }
    report(ctx, overall, "")
    thresholds: list[Threshold] = []
    sets: list[PredictionSet] = []
    for alpha, tuned in zip(params.alphas, chosen, strict=True):
        here = thresholds_at(
            alpha,
            tuned.weights,
            calibration.rows,
            calibration.found,
            groups,
            none_of_these=params.none_of_these,
            loss=params.loss,
        )
        thresholds += here
        if params.on_infeasible == "fail" and (
            missing := [each.category for each in here if each.threshold is None and each.n]
        ):
            raise Reject(
                f"alpha {alpha:g} is infeasible for {', '.join(missing)}: the smallest feasible alpha for all questions is "
                f"{rounded_up(feasible.alpha)}; sample more answers, set none_of_these, or choose a larger alpha"
            )
        scores, _ = scored(evaluation.found.pools, tuned.weights, params.none_of_these)
        sets += prediction_sets(
            evaluation.rows,
            evaluation.found,
            scores,
            [threshold_of(here, groups, row) for row in evaluation.rows],
            alpha,
            method="lofree",
            on_infeasible=params.on_infeasible,
            none_of_these=params.none_of_these,
        )
    others = _baselines(calibration, evaluation, params.alphas, params.on_infeasible, by_option=all_options_scored(every))
    for (method, alpha), each in by_level([*sets, *others]).items():
        prefix = "" if method == "lofree" else f"{method}_"
        report(ctx, {prefix + name: value for name, value in measures(each, alpha).items()}, f"alpha={alpha:g}")
    for alpha in params.alphas:
        finite = [each.threshold is not None for each in thresholds if each.alpha == alpha and each.n]
        ctx.report("feasible", float(all(finite)), f"alpha={alpha:g}")
        if groups is None and params.loss == "missed" and evaluation.rows:
            low, high = coverage_band(len(calibration.rows), len(evaluation.rows), alpha)
            ctx.report("ecr_target", 1 - alpha, f"alpha={alpha:g}")
            ctx.report("ecr_band_low", low, f"alpha={alpha:g}")
            ctx.report("ecr_band_high", high, f"alpha={alpha:g}")
    record = Calibration(
        made=made,
        equivalence=params.equivalence,
        min_similarity=params.min_similarity,
        encoder=encoder.identity if encoder else None,
        thresholds=thresholds,
        categories=sorted(groups.kept) if groups else None,
        none_of_these=params.none_of_these,
        on_infeasible=params.on_infeasible,
        loss=params.loss,
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


def _split(rows: Sequence[SampledAnswers], groups: Sequence[int], shares: Shares, ctx: Context) -> list[list[SampledAnswers]]:
    drawn = split(rows, groups, shares, ctx.seed)
    ctx.count("paraphrases", by=drawn.paraphrases)
    for side, numbers in drawn.rows.items():
        ctx.count("questions", side, by=len(numbers))
    if not drawn.rows["calibrate"]:
        raise Reject(
            f"the calibration split is empty: {counted(rows, 'question')} {'is' if len(rows) == 1 else 'are'} too few; "
            "add some, or raise `calibrate` in `split`"
        )
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
    import numpy as np

    if found.distance is not None and distances:  # the set of all sampled answers has the smallest loss
        return smallest_risk(np.where(found.pools.candidates, found.distance, 1.0).min(axis=1, initial=1.0))
    return smallest_alpha(true_scores(*scored(found.pools, ScoreWeights(0.0, 0.0), none_of_these)))


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
