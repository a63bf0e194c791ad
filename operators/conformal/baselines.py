"""The methods that LofreeCP is compared with: frequency alone, the first K answers, conformal prediction on logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from operators.conformal.equivalence import right_options
from operators.conformal.pools import Answered
from operators.conformal.theory import Pools, first_k_scores, lofree_scores, logit_scores
from operators.records import SampledAnswers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Baseline(NamedTuple):
    """A method's answers to questions, and their scores."""

    found: Answered
    scores: NDArray[np.float64]


def all_options_scored(rows: Sequence[SampledAnswers]) -> bool:
    """Whether the options of all these questions have log-probabilities."""
    return bool(rows) and all(row.options and row.option_logprobs for row in rows)


def baselines(rows: Sequence[SampledAnswers], found: Answered, *, by_option: bool) -> dict[str, Baseline]:
    """The scores of each method for which the samples are sufficient.

    `frequency` and `first_k` need only the samples (First-K: the first K different answers, with K calibrated). `logits` scores
    an answer by its log-probability per token or, with `by_option`, by the probability of its option's letter as the first
    token, relative to the other options. All are calibrated for coverage, whatever the loss.

    Args:
        rows, found: the questions.
        by_option: whether `all_options_scored` holds for all questions of the calibration and evaluation splits.
    """
    found = replace(found, distance=None)
    made = {
        "frequency": Baseline(found, lofree_scores(found.pools)),
        "first_k": Baseline(found, first_k_scores(found.pools)),
    }
    if by_option:
        options = _options(rows)
        made["logits"] = Baseline(options, logit_scores(options.pools))
    elif found.pools.log_probability is not None:
        made["logits"] = Baseline(found, logit_scores(found.pools))
    return made


def _options(rows: Sequence[SampledAnswers]) -> Answered:
    """All options as the pool, each with its share of the options' probability."""
    import numpy as np

    width = max((len(row.options or ()) for row in rows), default=0)
    counts = np.zeros((len(rows), width), np.int64)
    correct, share = np.zeros((len(rows), width), bool), np.full((len(rows), width), -np.inf)
    for place, row in enumerate(rows):
        options = row.options or []
        right = right_options(row.answers, options)
        logprobs = np.array(row.option_logprobs)
        counts[place, : len(options)] = 1
        correct[place, : len(options)] = [option in right for option in options]
        share[place, : len(options)] = logprobs - np.logaddexp.reduce(logprobs)
    zeros = np.zeros(counts.shape)
    return Answered(Pools(counts, zeros, counts - 1, correct, share), [list(row.options or ()) for row in rows])
