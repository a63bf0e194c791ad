"""The plan of a run, for people and as data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.cli.forecast_view import step_document
from engine.cli.output import grid
from engine.printable import row_count
from engine.spec.variant_names import split_name
from registry.counted import counted

if TYPE_CHECKING:
    from rich.console import Console

    from engine.planning.results import Plan, SharedPrefix, SourcePlan
    from engine.planning.reviews import StepReview
    from engine.previewing.results import Forecast


def plan_rows(plan: Plan, forecast: Forecast | None) -> list[dict[str, Any]]:
    """The plan as data, one row for each source and step."""
    expected = {each.name: each for each in forecast.steps} if forecast else {}
    rows: list[dict[str, Any]] = [
        {**named(source.name), "op": "source", "status": source.status, "rows": source.rows, "rejected": source.rejected}
        | {"ignored_fields": list(source.ignored), "type_of_rows": source.inferred, "changed_fields": list(source.changed)}
        | {"format": source.format}
        for source in plan.sources
    ]
    return rows + [
        {**named(step.name), "op": step.op, "status": step.status, "partitions_done": step.done, "partitions": step.total}
        | {"rows": step.rows, "max_calls": step.calls, "max_tokens": step.tokens, "max_cost_usd": step.cost_usd}
        | {"shared_prompts": [_shared_document(role, each) for role, each in step.shared.items()]}
        | {"waits_for": list(step.waits_for), "streams_from": list(step.streams_from)}
        | {"why": list(step.why), "notes": list(step.notes)}
        | {"review": review_document(step.review)}
        | {"forecast": step_document(expected[step.name]) if step.name in expected else None}
        for step in plan.steps
    ]


def named(name: str, key: str = "step") -> dict[str, str]:
    """A dataset or step of a pipeline, as data: its name in the file, and the variant of the matrix (empty: none)."""
    variant, own = split_name(name)
    return {key: own, "variant": variant}


def print_plan(plan: Plan, console: Console) -> None:
    """Print the plan as a table, with the steps' notes below it."""
    rows = [[s.name, "source", s.status, s.rows, "", "", "", source_note(s)] for s in plan.sources]
    for step in plan.steps:
        status = f"RESUME {step.done:,} of {step.total:,}" if step.status == "RESUME" else step.status
        cost = f"${step.cost_usd:.2f}" if step.cost_usd else ""
        waits = [f"for all of {', '.join(step.waits_for)}"] if step.waits_for else []
        waits += [f"for the first rows of {', '.join(step.streams_from)}"] if step.streams_from else []
        waits += [f"for reviewers: {waits_for(step.review)}"] if step.review and step.undecided else []
        note = " and ".join(waits)
        shown_rows: Any = "?" if step.rows is None else step.rows
        rows.append([step.name, step.op, status, shown_rows, step.calls or "", step.tokens or "", cost, note])
    console.print(grid(["step", "op", "plan", "rows", "calls ≤", "tokens ≤", "price ≤", ""], rows, counts=True))
    for source in plan.sources:
        if source.inferred:
            console.print(f"{source.name}: type from its rows: {source.inferred}", soft_wrap=True, markup=False)
        if source.changed:
            changed = "; ".join(source.changed)
            console.print(
                f"{source.name}: fields have changed since its newest version: {changed}", soft_wrap=True, markup=False
            )
    for step in plan.steps:
        for role, shared in step.shared.items():
            console.print(f"{step.name}: {_shared(role, shared)}", soft_wrap=True, markup=False)
        for line in (*step.notes, *step.why):
            console.print(f"{step.name}: {line}", soft_wrap=True)
    for model, identity in plan.identities.items():
        console.print(f"identity of model {model}: {json.dumps(identity)}", soft_wrap=True)
    if not plan.to_run:
        console.print("Nothing to do: every step is up to date.")
        return
    console.print(
        "HIT: up to date. RUN: will run. RESUME: continues where an earlier run stopped. WAIT: starts when the steps before it "
        "are complete or have their first rows, or people have reviewed enough rows. Calls, tokens and price are upper bounds; "
        "answers from the journal are free.",
        soft_wrap=True,
    )


def _shared(role: str, shared: SharedPrefix) -> str:
    """How much of the prompts a server can cache, for people."""
    if not shared.characters:
        return f"prompts to {role} begin differently for each row, so a server's prompt cache does not help"
    return (
        f"prompts to {role} have their first {shared.characters:,} of {counted(round(shared.length), 'character')} "
        f"({shared.share:.0%}) in common"
    )


def _shared_document(role: str, shared: SharedPrefix) -> dict[str, Any]:
    return {"role": role, "characters": shared.characters, "length": round(shared.length, 1), "share": round(shared.share, 4)}


def review_document(review: StepReview | None) -> dict[str, Any] | None:
    """What a review waits for, as data."""
    return {"queue": review.queue, **review.progress.count()} if review else None


def waits_for(review: StepReview) -> str:
    """What a review waits for, in words."""
    state = review.progress
    return f"{state.decided:,} of {row_count(state.rows)} decided, {state.missing:,} more needed"


def source_note(source: SourcePlan) -> str:
    """What users should know about the rows of a source; usually empty."""
    notes = ["empty!"] if not source.rows else []
    if source.format:
        notes.append(f"format: {source.format}")
    if source.rejected:
        notes.append(f"{row_count(source.rejected)} left out (see `rejects`)")
    if source.ignored:
        fields = (name if count == source.rows else f"{name} ({count:,})" for name, count in source.ignored.items())
        notes.append(f"fields left out: {', '.join(fields)}")
    return "; ".join(notes)
