"""Nonconformity scores of sampled answers: LofreeCP's, and those of its baselines.

Every function takes `Pools` and returns scores of shape (questions, answers): +inf where a question has no such answer or
the answer cannot be right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Pools:
    """The samples for n questions: the distinct answers of each, most frequent first (ties: sampled first), padded.

    Answers that cannot be right come last.

    Args:
        counts: (n, a) how often each answer was sampled, 0 in the padding.
        similarity: (n, a) to the question's most frequent answer; 0 for that answer itself.
        first: (n, a) the answer's place among the question's answers in the order they were first sampled.
        correct: (n, a) whether it is an accepted answer.
        log_probability: (n, a) of the answer, per token, or of the option; -inf where unknown. None if none are known.
        possible: (n, a) False for answers that cannot be right (if a question has options, texts that name none of them).
            They count as samples, but are never in a set. None: all answers are possible.
    """

    counts: NDArray[np.int64]
    similarity: Floats
    first: NDArray[np.int64]
    correct: NDArray[np.bool_]
    log_probability: Floats | None = None
    possible: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def samples(self) -> NDArray[np.int64]:
        """(n,) m, the number of samples."""
        import numpy as np

        return np.asarray(self.counts.sum(axis=1), dtype=np.int64)

    @property
    def frequency(self) -> Floats:
        """(n, a) F = count / m."""
        import numpy as np

        return np.asarray(self.counts / np.maximum(self.samples, 1)[:, None], dtype=np.float64)

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """(n, a) False in the padding."""
        import numpy as np

        return np.asarray(self.counts > 0, dtype=np.bool_)

    @property
    def candidates(self) -> NDArray[np.bool_]:
        """(n, a) the answers that a set may contain: sampled and possible."""
        return self.sampled if self.possible is None else self.sampled & self.possible

    @property
    def found(self) -> NDArray[np.bool_]:
        """(n,) whether an accepted answer was sampled at all."""
        import numpy as np

        return np.asarray(self.correct.any(axis=1), dtype=np.bool_)

    def take(self, rows: Any) -> Pools:
        """Some of the questions, by number or by a mask."""
        known, possible = self.log_probability, self.possible
        return replace(
            self,
            counts=self.counts[rows],
            similarity=self.similarity[rows],
            first=self.first[rows],
            correct=self.correct[rows],
            log_probability=None if known is None else known[rows],
            possible=None if possible is None else possible[rows],
        )


def normalised_entropy(pools: Pools) -> Floats:
    """(n,) NE: the entropy of a question's frequencies divided by ln m, 0 (all alike) to 1 (all different); 0 for m < 2."""
    import numpy as np

    if not pools.counts.size:
        return np.zeros(len(pools))
    # Ties matter, so equal counts must give equal numbers to the last bit, whatever other questions are present. Therefore each
    # logarithm is computed on its own, and sums start with the largest term and end with the padding.
    shares, places = np.unique(pools.frequency, return_inverse=True)
    terms = np.array([share * log(share) if share else 0.0 for share in shares.tolist()])[places.reshape(pools.counts.shape)]
    most = np.array([log(max(samples, 2)) for samples in pools.samples.tolist()])
    return np.asarray(np.abs(np.sort(terms, axis=1).cumsum(axis=1)[:, -1]) / most, dtype=np.float64)


def lofree_scores(pools: Pools, entropy_weight: float = 0.0, similarity_weight: float = 0.0) -> Floats:
    """N = -F + lambda1 NE - lambda2 SS (LofreeCP, arXiv 2403.01216, section 3); both weights 0: frequency only."""
    import numpy as np

    scores = -pools.frequency + entropy_weight * normalised_entropy(pools)[:, None] - similarity_weight * pools.similarity
    return np.where(pools.candidates, scores, np.inf)


def first_k_scores(pools: Pools) -> Floats:
    """The position at which an answer was first sampled, from 1; a set is the first K distinct answers."""
    import numpy as np

    return np.where(pools.candidates, pools.first + 1.0, np.inf)


def logit_scores(pools: Pools) -> Floats:
    """Minus the answer's log-probability (per token, or of the option): split conformal prediction on logits.

    Raises:
        ValueError: the samples have no log-probabilities.
    """
    import numpy as np

    if pools.log_probability is None:
        raise ValueError("these samples have no log-probabilities")
    return np.where(pools.candidates, -pools.log_probability, np.inf)


def unseen_scores(pools: Pools, entropy_weight: float = 0.0) -> Floats:
    """(n,) The score of the answer "none of the sampled answers": its F is Good and Turing's estimate of its share.

    That is the share of samples whose answer occurs only once (Good, Biometrika 40, 1953). With this answer, every question has
    a true answer that can be predicted, so every alpha is feasible.
    """
    import numpy as np

    once = np.asarray((pools.counts == 1).sum(axis=1) / np.maximum(pools.samples, 1), dtype=np.float64)
    return np.asarray(-once + entropy_weight * normalised_entropy(pools), dtype=np.float64)


def true_scores(scores: Floats, correct: NDArray[np.bool_]) -> Floats:
    """(n,) The score of the best accepted answer, +inf if none was sampled. A set covers if it contains this answer."""
    import numpy as np

    return np.asarray(np.where(correct, scores, np.inf).min(axis=1, initial=np.inf), dtype=np.float64)
