"""When to stop sampling: a rule that depends only on the samples.

Whatever the rule, scores are exchangeable if calibration questions and new questions are sampled with the same rule, because
every score is then the same function of a question and its samples. Calibrating with all samples and predicting with fewer
breaks this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def is_stable(answers: Sequence[Hashable], patience: int) -> bool:
    """Whether the last `patience` samples brought no new answer and did not change the most frequent one.

    Args:
        answers: the samples so far, in order; equivalent answers are equal.
        patience: the number of samples to look back.
    """
    before = answers[: max(len(answers) - patience, 0)]
    return bool(before) and set(answers) == set(before) and _leader(answers) == _leader(before)


def _leader(answers: Sequence[Hashable]) -> Hashable:
    return Counter(answers).most_common(1)[0][0]
