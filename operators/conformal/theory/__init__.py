"""The mathematics of conformal prediction sets over sampled answers: functions on numpy arrays, usable from a notebook.

It depends neither on the engine nor on Ray. A nonconformity score is high for an unlikely answer; a prediction set contains
the answers whose score is at most a threshold.

The functions import numpy themselves, because `engine check` imports these modules and needs no number.
"""

from operators.conformal.theory.exchangeability import Drift, drift
from operators.conformal.theory.groups import OTHERS, Taxonomy, taxonomy
from operators.conformal.theory.measures import (
    UNKNOWN,
    Estimate,
    Stratum,
    average_size,
    coverage,
    coverage_band,
    coverage_gap,
    covers,
    singleton_share,
    size_strata,
    size_stratified_miscoverage,
)
from operators.conformal.theory.quantile import Feasibility, exact, exceeding, p_values, quantiles, rank, smallest_alpha
from operators.conformal.theory.risk import risk_threshold, smallest_risk
from operators.conformal.theory.scores import (
    Pools,
    first_k_scores,
    lofree_scores,
    logit_scores,
    normalised_entropy,
    true_scores,
    unseen_scores,
)
from operators.conformal.theory.stopping import is_stable
from operators.conformal.theory.tuning import GRID, ScoreWeights, Tuned, scored, tune

__all__ = [
    "GRID",
    "OTHERS",
    "UNKNOWN",
    "Drift",
    "Estimate",
    "Feasibility",
    "Pools",
    "ScoreWeights",
    "Stratum",
    "Taxonomy",
    "Tuned",
    "average_size",
    "coverage",
    "coverage_band",
    "coverage_gap",
    "covers",
    "drift",
    "exact",
    "exceeding",
    "first_k_scores",
    "is_stable",
    "lofree_scores",
    "logit_scores",
    "normalised_entropy",
    "p_values",
    "quantiles",
    "rank",
    "risk_threshold",
    "scored",
    "singleton_share",
    "size_strata",
    "size_stratified_miscoverage",
    "smallest_alpha",
    "smallest_risk",
    "taxonomy",
    "true_scores",
    "tune",
    "unseen_scores",
]
