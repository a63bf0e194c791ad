"""Turns sampled texts into pools of answers: parses them, merges equal ones, and compares them with the accepted answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.operator import Encoder
from operators.conformal.equivalence import Equivalence, accents_are_loose, accepted, merged, reading, right_options, short
from operators.conformal.theory import Pools, normalised_entropy
from operators.records import SampledAnswers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]
"""Called with the number of questions done and the number of all questions."""

_DIGITS = 5
"""Decimals kept of a similarity, because the last digits of a vector depend on the other texts in its batch."""


FEATURES = ("entropy", "top_share", "distinct_share")


def features(pools: Pools) -> NDArray[np.float64]:
    """(n, 3) the features of each question that the test of exchangeability compares, see FEATURES."""
    import numpy as np

    distinct = pools.sampled.sum(axis=1) / np.maximum(pools.samples, 1)
    return np.column_stack([normalised_entropy(pools), pools.frequency.max(axis=1, initial=0.0), distinct])


@dataclass
class DistinctAnswer:
    """A distinct answer to a question.

    Args:
        first: the number of the first sample with this answer.
        count: the number of samples with it.
        shown: the spellings of the answer, and how often each occurs.
        logprob: the highest log-probability among its samples.
        correct: whether it is an accepted answer.
        possible: see `Reading`.
        members: the numbers of the samples with it, in no order.
    """

    first: int
    count: int = 0
    shown: Counter[str] = field(default_factory=Counter)
    logprob: float = float("-inf")
    correct: bool = False
    possible: bool = True
    members: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its most frequent spelling."""
        return self.shown.most_common(1)[0][0]


@dataclass(frozen=True)
class Answered:
    """The pools of questions as arrays, and the texts of their answers in the same order.

    Args:
        distance: (n, a) 1 minus the similarity of an answer to the nearest accepted one, 0 to 1; None without an encoder.
    """

    pools: Pools
    texts: list[list[str]]
    distance: np.ndarray | None = None


async def answered(
    rows: Sequence[SampledAnswers],
    equivalence: Equivalence,
    encoder: Encoder | None,
    min_similarity: float,
    *,
    distances: bool = False,
    progress: Progress = lambda done, total: None,
) -> Answered:
    """The pools of sampled answers.

    Args:
        rows: questions with their samples.
        equivalence: when two answers count as the same.
        encoder: computes similarities; without it, they are 0.
        min_similarity: the smallest similarity of equal answers under `embedding`.
        distances: whether to compute distances to the accepted answers (needs an encoder).
        progress: called after every 64 questions.
    """
    import numpy as np

    found = await distinct_answers(rows, equivalence, encoder, min_similarity, progress)
    truths = [_accepted_texts(row) if distances or equivalence == "embedding" else [] for row in rows]
    vectors = await _vectors([[each.text for each in answers] for answers in found], truths, encoder)
    width = max((len(answers) for answers in found), default=0)
    shape = (len(rows), width)
    counts, first = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    correct, possible, logprob = np.zeros(shape, bool), np.ones(shape, bool), np.full(shape, -np.inf)
    similarity, distance = np.zeros(shape), np.ones(shape)
    for place, answers in enumerate(found):
        order = sorted(range(len(answers)), key=lambda rank: (not answers[rank].possible, answers[rank].first))
        for rank, answer in enumerate(answers):
            counts[place, rank], correct[place, rank] = answer.count, answer.correct
            first[place, rank], logprob[place, rank] = order.index(rank), answer.logprob
            possible[place, rank] = answer.possible
        if vectors and len(answers):
            own, true = vectors[place]
            similarity[place, 1 : len(answers)] = np.round(own[1:].astype(float) @ own[0].astype(float), _DIGITS)
            if len(true):
                near = np.round((own.astype(float) @ true.T.astype(float)).max(axis=1), _DIGITS)
                distance[place, : len(answers)] = np.where(correct[place, : len(answers)], 0.0, 1 - np.clip(near, 0, 1))
    known = all(row.logprobs is not None for row in rows) and bool(rows)
    return Answered(
        Pools(counts, similarity, first, correct, logprob if known else None, possible),
        [[each.text for each in answers] for answers in found],
        distance if distances else None,
    )


async def distinct_answers(
    rows: Sequence[SampledAnswers],
    equivalence: Equivalence,
    encoder: Encoder | None,
    min_similarity: float,
    progress: Progress = lambda done, total: None,
) -> list[list[DistinctAnswer]]:
    """The distinct answers to each question, possible ones first, then by frequency; see `answered`."""
    found: list[list[DistinctAnswer]] = []
    for number, row in enumerate(rows):
        found.append(await _answers(row, equivalence))
        if number % 64 == 0:
            progress(number, len(rows))
    if equivalence != "embedding" or encoder is None:
        return found
    truths = [_accepted_texts(row) for row in rows]
    vectors = await _vectors([[each.text for each in answers] for answers in found], truths, encoder)
    return [
        answers if row.options else _joined(answers, own, true, min_similarity)
        for row, answers, (own, true) in zip(rows, found, vectors, strict=True)
    ]


async def _answers(row: SampledAnswers, equivalence: Equivalence) -> list[DistinctAnswer]:
    """The distinct answers to a question, possible ones first, then by frequency (ties: the one sampled first)."""
    loose = accents_are_loose(row.question, [*row.answers, *map(short, row.samples)])
    read = reading(equivalence, row.options, fold_accents=loose)
    readings = [read(text) for text in row.samples]
    forms: dict[str, str] = {}
    for shown, form, _ in readings:
        forms.setdefault(form, shown)
    representative = await merged(forms) if equivalence == "math" and not row.options else {form: form for form in forms}
    right = await accepted(equivalence, row.answers, forms, row.options, fold_accents=loose)
    answers: dict[str, DistinctAnswer] = {}
    for number, (shown, form, possible) in enumerate(readings):
        answer = answers.setdefault(representative[form], DistinctAnswer(number, possible=possible))
        answer.count += 1
        answer.members.append(number)
        answer.shown[shown] += 1
        answer.correct = answer.correct or (possible and form in right)
        if row.logprobs is not None:
            answer.logprob = max(answer.logprob, row.logprobs[number])
    return _ordered(list(answers.values()))


def _accepted_texts(row: SampledAnswers) -> list[str]:
    """The accepted answers as texts; letters are replaced by their options."""
    return sorted(right_options(row.answers, row.options)) if row.options else row.answers


def _ordered(answers: list[DistinctAnswer]) -> list[DistinctAnswer]:
    return sorted(answers, key=lambda answer: (not answer.possible, -answer.count, answer.first))


async def _vectors(
    texts: Sequence[Sequence[str]], truths: Sequence[Sequence[str]], encoder: Encoder | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each question, the vectors of its answers and of the accepted answers; empty without an encoder."""
    if encoder is None:
        return []
    every = [text for own, true in zip(texts, truths, strict=True) for text in (*own, *true)]
    vectors = await encoder.embed(every)
    found, at = [], 0
    for own, true in zip(texts, truths, strict=True):
        middle, end = at + len(own), at + len(own) + len(true)
        found.append((vectors[at:middle], vectors[middle:end]))
        at = end
    return found


def _joined(answers: list[DistinctAnswer], own: np.ndarray, true: np.ndarray, least: float) -> list[DistinctAnswer]:
    """Merge each answer into a more frequent one if similar enough; it is correct if it is similar to an accepted answer."""
    import numpy as np

    alike = np.round(own.astype(float) @ own.T.astype(float), _DIGITS) >= least
    right = (np.round(own.astype(float) @ true.T.astype(float), _DIGITS) >= least).any(axis=1)
    kept: dict[int, DistinctAnswer] = {}
    for place, answer in enumerate(answers):
        into = next((other for other in kept if alike[place, other]), place)
        answer.correct = answer.correct or bool(right[place])
        if into == place:
            kept[place] = answer
            continue
        other = kept[into]
        other.count += answer.count
        other.first = min(other.first, answer.first)
        other.members += answer.members
        other.shown.update(answer.shown)
        other.correct = other.correct or answer.correct
        other.logprob = max(other.logprob, answer.logprob)
    return _ordered(list(kept.values()))
