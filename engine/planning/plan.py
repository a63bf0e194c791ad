"""What a run would do: which sources must be read, which steps hit, resume or run, and what that may cost at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.jobs.receipts import read_receipt
from engine.pipeline.graph import Pipeline, Step
from engine.planning.bounds import bounds_of, split
from engine.planning.explain import explain
from engine.planning.inputs import Input, link_key, resolve_inputs, streamed_rows, with_models
from engine.planning.keys import step_document, step_key
from engine.planning.results import Plan, StepPlan
from engine.planning.row_groups import families_of
from engine.planning.sources import plan_source
from registry import Registry


def make_plan(pipeline: Pipeline, registry: Registry, *, select: set[str], force: set[str], why: bool = False) -> Plan:
    """Plan the selected steps and all they need; sources that are not versions yet are read and typed.

    Raises:
        PipelineError: a source has rows that do not fit.
    """
    chosen = needed(pipeline, select)
    made: dict[tuple[str, str], Input] = {}
    source_plans = [plan_source(pipeline, pipeline.sources[name], registry) for name in pipeline.sources if name in chosen]
    for source in source_plans:
        made[source.name, ""] = source.input
    step_plans = []
    for name, checked in pipeline.steps.items():
        step = checked
        if name not in chosen:
            continue
        waits = sorted({link.name for link in step.links if link_key(link) not in made and link.kind == "step"})
        if waits:
            plan = StepPlan(name, step.operator.name, "WAIT", waits_for=tuple(waits), notes=step.notes)
        else:
            step = with_models(step, made, registry)
            plan = plan_step(pipeline, step, resolve_inputs(step, made, registry), registry, force=name in force)
        if why and plan.status in ("RUN", "RESUME"):
            plan = replace(plan, why=tuple(explain(pipeline, step, plan, registry, forced=name in force)))
        for manifest in plan.manifests:
            made[name, manifest.output] = Input(manifest.ref, manifest.data)
        step_plans.append(plan)
    return Plan(pipeline.spec.name, tuple(source_plans), tuple(step_plans))


def needed(pipeline: Pipeline, select: set[str]) -> set[str]:
    """The selected steps (all, when none is named) with every dataset and step they need."""
    if not select:
        return {*pipeline.steps, *pipeline.sources}
    found: set[str] = set()
    waiting = list(select)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in pipeline.steps:
            waiting += pipeline.steps[name].needs
    return found


def plan_step(
    pipeline: Pipeline, step: Step, inputs: Mapping[str, tuple[Input, ...]], registry: Registry, *, force: bool = False
) -> StepPlan:
    """Whether a step hits, resumes or runs over given inputs."""
    refs = {port: tuple(each.ref for each in versions) for port, versions in inputs.items()}
    related = families_of(step, inputs, registry) if step.operator.families else {}
    document = step_document(step, refs, pipeline.spec.seed, excluded_of(pipeline, step), related)
    key = step_key(document)
    rows = streamed_rows(step, inputs)
    names = {pipeline.output_name(step.name, output): output for output in step.operator.outputs}
    found = {m.output: m for m in registry.find_step(key) if m.name in names and registry.intact(m)}
    name, op = step.name, step.operator.name
    if len(found) == len(names) and not force:
        manifests = tuple(found[output] for output in step.operator.outputs)
        return StepPlan(name, op, "HIT", rows=rows, key=key, document=document, manifests=manifests)
    parts = split(step, inputs)
    done = [] if force else [part for part in parts if read_receipt(registry.receipts, registry.store, key, part)]
    left = rows - sum(part.stop - part.start for part in done)
    bounds = bounds_of(step, inputs, rows, left)
    return StepPlan(
        name,
        op,
        "RESUME" if done else "RUN",
        rows=rows,
        done=len(done),
        total=len(parts),
        key=key,
        document=document,
        calls=bounds.calls,
        tokens=bounds.tokens,
        cost_usd=bounds.cost_usd,
        notes=bounds.notes,
        families=related,
    )


def excluded_of(pipeline: Pipeline, step: Step) -> dict[str, frozenset[str]]:
    """Ids of the rows of a step's outputs that the exclusion list leaves out, by output."""
    named = {output: pipeline.excluded.get(pipeline.output_name(step.name, output)) for output in step.operator.outputs}
    return {output: ids for output, ids in named.items() if ids}
