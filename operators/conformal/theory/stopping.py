"""When to stop sampling: a rule that looks at the samples only.

Whatever the rule, scores stay exchangeable when calibration and new questions are sampled with the same one, because each
question's score is then one and the same function of the question and its samples. Calibrating with all samples and predicting
with fewer breaks that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def settled(answers: Sequence[Hashable], patience: int) -> bool:
    """Whether the last `patience` samples brought no new answer and left the most frequent one what it was.

    Args:
        answers: what was sampled so far, in order; equivalent answers are equal.
        patience: samples.
    """
    before = answers[: max(len(answers) - patience, 0)]
    return bool(before) and set(answers) == set(before) and _leader(answers) == _leader(before)


def _leader(answers: Sequence[Hashable]) -> Hashable:
    return Counter(answers).most_common(1)[0][0]
