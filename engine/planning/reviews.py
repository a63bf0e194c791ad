"""The review of a step: its decisions, which are part of the step key, and whether there are enough of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.jobs.messages import InputVersion
from registry import Decision, Registry, ReviewTask
from registry.storage.checked_json import json_digest

if TYPE_CHECKING:
    from engine.pipeline.graph import Pipeline, Step
    from engine.reviewing.progress import Progress


@dataclass(frozen=True)
class StepReview:
    """What people are asked about the rows of a step, and how far they are.

    Args:
        queue: the name of the review, under which decisions are stored: that of the dataset that the step makes.
    """

    queue: str
    task: ReviewTask
    progress: Progress

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions that count, in an order that depends on nothing but them."""
        return tuple(each for row in sorted(self.progress.decisions) for each in self.progress.decisions[row])

    @property
    def document(self) -> dict[str, Any]:
        """Its part of the step's key document. Instructions for reviewers and times of decisions change no result."""
        task = self.task.model_dump(mode="json", exclude={"instructions"})
        return {"task": task, "decisions": json_digest([each.substance for each in self.decisions])}


def review_of(
    pipeline: Pipeline, step: Step, inputs: Mapping[str, tuple[InputVersion, ...]], registry: Registry
) -> StepReview | None:
    """The review of a step over given inputs; None if its operator asks for none."""
    operator = step.operator
    task = operator.review(step.params, {name: port.record for name, port in operator.inputs.items()})
    if task is None:
        return None
    from engine.reviewing.progress import progress_of  # reads rows, which other steps do without
    from engine.reviewing.rows import ReviewRows, Rows

    queue = queue_of(pipeline, step)
    [(port, versions)] = inputs.items()
    given = [Rows(each.ref, each.data) for each in versions]
    rows = ReviewRows.of(registry.store, given, operator.inputs[port].record)
    return StepReview(queue, task, progress_of(task, rows, registry.reviews.decisions(queue)))


def queue_of(pipeline: Pipeline, step: Step) -> str:
    """The name of a step's review."""
    return step.queue or pipeline.output_name(step.name, next(iter(step.operator.outputs)))
