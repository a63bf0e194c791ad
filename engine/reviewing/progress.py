"""How far a review is: which rows are decided, and how many have to be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from engine.reviewing.fitting import mismatch
from engine.reviewing.rows import ReviewRows
from registry import Decision, ReviewTask
from registry.reviews.decisions import current
from registry.reviews.outcomes import Outcome, outcome_of


@dataclass(frozen=True)
class Progress:
    """The state of a review.

    Args:
        rows: the number of different rows.
        needed: the number of rows that have to be decided.
        decisions: the decisions that count, by row.
        outcomes: the outcomes of the decided rows.
        mismatches: why decisions that do not fit are ignored, by row and reviewer.
    """

    rows: int
    needed: int
    decisions: Mapping[str, tuple[Decision, ...]]
    outcomes: Mapping[str, Outcome]
    mismatches: Mapping[tuple[str, str], str]

    @property
    def decided(self) -> int:
        """The number of decided rows."""
        return len(self.outcomes)

    @property
    def missing(self) -> int:
        """How many rows have still to be decided."""
        return max(0, self.needed - self.decided)

    def count(self) -> dict[str, int]:
        """The numbers, for people and programs."""
        return {"rows": self.rows, "decided": self.decided, "needed": self.needed, "missing": self.missing}


def progress_of(task: ReviewTask, rows: ReviewRows, decisions: Iterable[Decision]) -> Progress:
    """The state of a review with these rows and these decisions, whatever order they come in."""
    counting: dict[str, tuple[Decision, ...]] = {}
    mismatches: dict[tuple[str, str], str] = {}
    for row_id, made in current(each for each in decisions if each.row in rows).items():
        fit = []
        for each in made:
            if why := mismatch(each, task, partial(rows.row, row_id)):
                mismatches[row_id, each.reviewer] = why
            else:
                fit.append(each)
        if fit:
            counting[row_id] = tuple(fit)
    outcomes = {row: found for row, made in counting.items() if (found := outcome_of(made, task.reviewers))}
    return Progress(len(rows), needed_rows(task, len(rows)), counting, outcomes, mismatches)


def needed_rows(task: ReviewTask, rows: int) -> int:
    """How many of so many rows have to be decided."""
    if task.n is not None:
        return min(task.n, rows)
    return rows if task.share is None else math.ceil(task.share * rows - 1e-9)


def order_of(task: ReviewTask, rows: ReviewRows) -> list[str]:
    """The ids of the rows in the order in which people are asked.

    If all have to be decided, it is the order of the rows; otherwise that of the ids, which is as good as random: the decided
    rows are then a random sample, and a row keeps its place when others change.
    """
    return list(rows) if needed_rows(task, len(rows)) == len(rows) else sorted(rows)
