"""A review as reviewers see it: its rows, and which of them a reviewer decides about next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from engine.errors import PipelineError, Problem, did_you_mean
from engine.reviewing.progress import Progress, order_of, progress_of
from engine.reviewing.rows import ReviewRows, Rows
from registry import Decision, Registry
from registry.reviews.decisions import Queue


@dataclass(frozen=True)
class OpenReview:
    """A review, its rows, and how far it is.

    Args:
        decisions: all of them, by time.
    """

    queue: Queue
    rows: ReviewRows
    progress: Progress
    decisions: tuple[Decision, ...]

    @cached_property
    def order(self) -> list[str]:
        """The ids of the rows in the order in which people are asked."""
        return order_of(self.queue.task, self.rows)

    def undecided(self) -> list[str]:
        """The rows without an outcome, those first that somebody has decided about: they need others to come out."""
        found = [row for row in self.order if row not in self.progress.outcomes]
        return sorted(found, key=lambda row: -len(self.progress.decisions.get(row, ())))

    def last_of(self, reviewer: str) -> dict[str, Decision]:
        """What a reviewer decided last about each row, whether it counts or not."""
        return {each.row: each for each in self.decisions if each.reviewer == reviewer}

    def turn_of(self, reviewer: str) -> list[str]:
        """The undecided rows that a reviewer can decide about, in order: those that others have begun, new ones, skipped ones.

        A row that this reviewer has decided about waits for others. With a tie it is the reviewer's again, after all others.
        Several reviewers begin at different places among the new rows, so that they rarely review the same row.
        """
        own = self.last_of(reviewer)
        begun: list[str] = []
        new: list[str] = []
        skipped, tied = [], []
        for row in self.undecided():
            mine = own.get(row)
            if mine is None or (row, reviewer) in self.progress.mismatches:
                (begun if row in self.progress.decisions else new).append(row)
            elif mine.verdict == "skip":
                skipped.append(row)
            elif len(self.progress.decisions.get(row, ())) >= self.queue.task.reviewers:
                tied.append(row)
        people = sorted({each.reviewer for each in self.decisions} | {reviewer})
        start = len(new) * people.index(reviewer) // len(people)
        return [*begun, *new[start:], *new[:start], *skipped, *tied]


def open_review(registry: Registry, name: str) -> OpenReview:
    """A review by its name; raises PipelineError if there is none."""
    queue = registry.reviews.queue(name)
    if queue is None:
        known = [each.name for each in registry.reviews.queues()]
        hint = did_you_mean(name, known) or "a run of a pipeline with a step `review` makes one"
        raise PipelineError([Problem(f"there is no review {name!r} in {registry.where}", hint=hint)])
    return opened(registry, queue)


def opened(registry: Registry, queue: Queue) -> OpenReview:
    """A review with its rows."""
    versions = [registry.manifest(ref.name, ref.version) for ref in queue.inputs]
    rows = ReviewRows.of(registry.store, [Rows(each.ref, each.data) for each in versions], queue.type.record())
    made = registry.reviews.decisions(queue.name)
    return OpenReview(queue, rows, progress_of(queue.task, rows, made), tuple(made))


def open_reviews(registry: Registry) -> Iterator[OpenReview]:
    """All reviews whose rows are in the registry, by name."""
    for queue in registry.reviews.queues():
        if all(_is_there(registry, ref.name, ref.version) for ref in queue.inputs):
            yield opened(registry, queue)


def reading(queues: Iterable[Queue], name: str) -> list[Queue]:
    """The reviews that ask about rows of versions of a name."""
    return [each for each in queues if any(ref.name == name for ref in each.inputs)]


def _is_there(registry: Registry, name: str, version: int) -> bool:
    try:
        registry.manifest(name, version)
    except KeyError:
        return False
    return True
