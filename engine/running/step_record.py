"""The record of a step: what it did in a run, as observers and reports show it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from engine.causes import CountedCause, by_cause
from engine.jobs.messages import Receipt, Usage
from engine.pipeline.graph import Step
from engine.planning.results import StepPlan
from engine.planning.reviews import StepReview
from engine.running.reject_examples import Place
from engine.running.result import StepResult
from engine.spec.variant_names import split_name
from registry import Manifest, Registry, SideObject, StepRun

_REASONS_SHOWN = 3
_LONGEST_TEXT = 4000
"""Characters of a reason or note that are recorded; what changed in code may be long."""


def step_result(
    registry: Registry,
    step: Step,
    record: StepRun,
    manifests: Sequence[Manifest],
    rejects: Sequence[SideObject],
    notes: Sequence[str] = (),
    review: StepReview | None = None,
) -> StepResult:
    """A step's record with its outputs, its most frequent reasons for rejects, and notes for the user.

    Args:
        rejects: all its objects with rejects.
        review: the review that it waits for.
    """
    return StepResult(
        record,
        tuple(manifests),
        tuple((each.text, each.times) for each in reasons_of(registry, rejects)),
        partial=sum(part.rows for part in rejects) - record.rejected,
        metrics=manifests[0].metrics if manifests else (),
        notes=tuple(dict.fromkeys(notes)),
        asks_api=any(model.spec.remote for model in step.models.values()),
        review=review,
    )


def record_of_hit(name: str, plan: StepPlan, manifests: Sequence[Manifest], started: dt.datetime, waited_for: str) -> StepRun:
    """The record of a step that used existing outputs."""
    first, ended = manifests[0], dt.datetime.now(dt.UTC)
    variant, own = split_name(name)
    return StepRun(
        step=own,
        variant=variant,
        op=plan.op,
        outcome="hit",
        rows_in=plan.rows or 0,
        rows_out=sum(manifest.rows for manifest in manifests),
        filtered=first.filtered,
        rejected=first.rejected,
        unused=first.unused,
        seconds=round((ended - started).total_seconds(), 3),
        started_at=started,
        ended_at=ended,
        waited_for=waited_for,
    )


def record_of(
    plan: StepPlan,
    outcome: Literal["ran", "resumed", "failed", "stopped", "waiting"],
    rows: int,
    rows_out: int,
    receipts: Iterable[Receipt],
    usage: Usage,
    started: dt.datetime,
    waited_for: str,
    why: Sequence[str],
    notes: Sequence[str],
    reject_reasons: Sequence[CountedCause] = (),
    reject_rows: Mapping[str, tuple[Place, ...]] = MappingProxyType({}),
) -> StepRun:
    """The record of a step that ran now.

    Args:
        plan: the step's plan, which has its name.
        rows: the number of rows of its input, as far as it was known.
        rows_out: the number of rows of all its outputs.
        receipts: the receipts of all finished partitions, whoever finished them.
        usage: the use of models in this run.
        started: the time when the step was opened.
        waited_for, why, notes: see StepRun.
        reject_reasons: its most frequent reasons for rejects.
        reject_rows: rows by the cause of their rejection.
    """
    ended = dt.datetime.now(dt.UTC)
    known = [*receipts]
    variant, own = split_name(plan.name)
    return StepRun(
        step=own,
        variant=variant,
        op=plan.op,
        outcome=outcome,
        rows_in=rows,
        rows_out=rows_out,
        filtered=sum(receipt.filtered for receipt in known),
        rejected=sum(receipt.rejected for receipt in known),
        unused=sum(receipt.unused for receipt in known),
        **usage.model_dump(),
        seconds=round((ended - started).total_seconds(), 3),
        started_at=started,
        ended_at=ended,
        waited_for=waited_for,
        why=tuple(map(_clipped, why)),
        notes=tuple(map(_clipped, notes)),
        reject_reasons=tuple((_clipped(each.text), each.times) for each in reject_reasons),
        reject_rows=tuple(reject_rows.get(each.cause, ()) for each in reject_reasons),
    )


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def rejects_of(manifests: Sequence[Manifest]) -> list[SideObject]:
    """The rejects of a step; they belong to its first output."""
    return [part for part in manifests[0].side if part.kind == "rejects"]


def reasons_of(registry: Registry, rejects: Iterable[SideObject]) -> tuple[CountedCause, ...]:
    """The most frequent causes of rejects."""
    tables = (registry.store.read_table(part.sha256, ["reason"]) for part in rejects)
    found = by_cause(reason for table in tables for reason in table.column("reason").to_pylist())
    return tuple(found[:_REASONS_SHOWN])
