"""Records what a run asks reviewers, in the registry."""

from __future__ import annotations

import datetime as dt

from engine.pipeline.graph import Step
from engine.planning.results import StepPlan
from engine.running.run_state import RunState


def ask(run: RunState, step: Step, plan: StepPlan, at: dt.datetime) -> None:
    """Record what the review of a step asks, and about which rows. This replaces the previous record."""
    from registry.records.described import described  # most runs do without
    from registry.reviews.decisions import Queue

    assert plan.review
    [(port, versions)] = plan.inputs.items()
    queue = Queue(
        name=plan.review.queue,
        pipeline=run.pipeline.spec.name,
        step=step.name,
        file=run.pipeline.file.name,
        run_id=run.run_id,
        asked_at=at,
        inputs=tuple(version.ref for version in versions),
        type=described(step.operator.inputs[port].record),
        task=plan.review.task,
    )
    run.registry.reviews.ask(queue)
