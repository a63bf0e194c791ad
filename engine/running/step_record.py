"""What a step did in a run, as it is reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from engine.pipeline.graph import Step
from engine.running.result import StepResult
from registry import Manifest, Registry, SideObject, StepRun

_REASONS_SHOWN = 3


def step_result(
    registry: Registry,
    step: Step,
    record: StepRun,
    manifests: Sequence[Manifest],
    rejects: Sequence[SideObject],
    notes: Sequence[str] = (),
) -> StepResult:
    """A step's record with its outputs, its most frequent reasons for rejects, and notes for the user.

    Args:
        rejects: all its objects with rejects.
    """
    return StepResult(
        record,
        tuple(manifests),
        reasons_of(registry, rejects),
        partial=sum(part.rows for part in rejects) - record.rejected,
        metrics=manifests[0].metrics if manifests else (),
        notes=tuple(dict.fromkeys(notes)),
        asks_api=any(model.spec.provider == "openai" for model in step.models.values()),
    )


def rejects_of(manifests: Sequence[Manifest]) -> list[SideObject]:
    """The rejects of a step; they belong to its first output."""
    return [part for part in manifests[0].side if part.kind == "rejects"]


def reasons_of(registry: Registry, rejects: Iterable[SideObject]) -> tuple[tuple[str, int], ...]:
    """The most frequent reasons, with their counts."""
    counted: Counter[str] = Counter()
    for part in rejects:
        counted.update(registry.store.read_table(part.sha256, ["reason"]).column("reason").to_pylist())
    return tuple(counted.most_common(_REASONS_SHOWN))
