"""Upper bounds from the prompts of a step. They are remembered, because making prompts takes reading rows (see `prompts`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.llm.local.tokenizer import tokenizer_digest
from engine.pipeline.graph import Pipeline, Step
from engine.planning.inputs import memory_of
from engine.planning.remembered import recall, remember
from engine.planning.results import Plan, PromptBounds, StepPlan
from registry import Registry
from registry.errors import MissingError

MOST_ROWS = 20_000
"""The prompts of steps with more rows are not made: that would take longer than seconds."""


def with_prompts(pipeline: Pipeline, plan: Plan, registry: Registry, *, stored: bool = True) -> Plan:
    """The plan, with smaller bounds for the steps whose prompts can be made.

    Args:
        stored: whether the rows of all sources are in the registry's store.

    Raises:
        MissingError: prompts have to be made, and rows may be missing.
    """
    known: dict[str, PromptBounds] = {}
    unknown: list[StepPlan] = []
    keys: dict[str, Mapping[str, Any]] = {}
    for each in plan.steps:
        if not _can_be_made(pipeline.steps[each.name], each):
            continue
        # Which rows of a step are finished changes all the time, so only bounds of all rows are remembered.
        if each.status == "RUN":
            keys[each.name] = _key(pipeline.steps[each.name], each)
            if found := recall(PromptBounds, keys[each.name]):
                known[each.name] = found
                continue
        unknown.append(each)
    if unknown:
        # To an operator, a missing image looks like a row that it cannot use. So this does not wait until one is missing.
        unread = (each for each in plan.sources if each.status == "READ" and each.draft is None)
        if not stored and (source := next(unread, None)):
            raise MissingError(f"the rows of {source.name} were not read")
        from engine.previewing.prompts import bounds_of_prompts  # imports what workers need

        made = bounds_of_prompts(pipeline, unknown, registry)
        for name in made.keys() & keys.keys():
            remember(made[name], keys[name])
        known |= made
    return replace(plan, steps=tuple(_with(each, known.get(each.name)) for each in plan.steps))


def _with(plan: StepPlan, bounds: PromptBounds | None) -> StepPlan:
    if bounds is None:
        return plan
    return replace(plan, calls=bounds.calls, tokens=bounds.tokens, cost_usd=bounds.cost_usd, shared=bounds.shared)


def _can_be_made(step: Step, plan: StepPlan) -> bool:
    chat = [model for model in step.models.values() if not model.spec.encodes]
    known = all(model.weights is not None or model.spec.remote for model in step.models.values())
    to_run = plan.status in ("RUN", "RESUME") and 0 < (plan.rows or 0) <= MOST_ROWS
    return bool(chat) and len(chat) == len(step.models) and known and to_run and step.operator.shape == "row"


def _key(step: Step, plan: StepPlan) -> dict[str, Any]:
    """Everything that the bounds of a step follow from: its key document decides its prompts, the rest how they are counted."""
    return {
        "step": plan.document,
        "calls": dict(step.operator.calls_per_row(step.params)),
        "prompt_bytes": step.operator.prompt_bytes(step.params),
        "memory": {port: memory_of(versions) for port, versions in plan.inputs.items()},
        "models": {role: model.spec.model_dump_json() for role, model in step.models.items()},
        "tokenizers": {role: tokenizer_digest(model.spec, model.weights) for role, model in step.models.items()},
    }
