"""The part of a review that an operator gets: the decisions of people about the rows of its input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from registry.reviews.decisions import Decision, ReviewTask, current
from registry.reviews.outcomes import Outcome, outcome_of


class Reviews:
    """The decisions about rows, by the ids of their content (`table.row_ids()`).

    Args:
        decisions: the decisions that count; see registry.reviews.decisions.current.
        task: the questions to the reviewers.
    """

    def __init__(self, decisions: Iterable[Decision], task: ReviewTask) -> None:
        self._decisions: Mapping[str, tuple[Decision, ...]] = current(decisions)
        self._task = task

    def decisions(self, row_id: str) -> tuple[Decision, ...]:
        """What each reviewer decided about a row, by their names."""
        return self._decisions.get(row_id, ())

    def outcome(self, row_id: str) -> Outcome | None:
        """The combined decision about a row; None if it is undecided."""
        return outcome_of(self.decisions(row_id), self._task.reviewers)
