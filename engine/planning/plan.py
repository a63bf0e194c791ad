"""What a run would do: which sources it reads, which steps hit, resume or run, and upper bounds of the cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from engine.jobs.feed import Feed
from engine.jobs.messages import WHOLE, Partition
from engine.jobs.partitions import Size, size_for
from engine.jobs.receipts import Receipts
from engine.pipeline.graph import Link, Pipeline, Step
from engine.pipeline.served_models import server_notes
from engine.planning.bounds import bounds_of
from engine.planning.explain import explain
from engine.planning.inputs import (
    Available,
    Inputs,
    barriers,
    link_key,
    resolve_inputs,
    streamed_rows,
    version_of,
    with_models,
)
from engine.planning.keys import base_document, step_document, step_key
from engine.planning.results import Plan, StepPlan
from engine.planning.reviews import StepReview, review_of
from engine.planning.row_groups import row_groups_of
from engine.planning.sources import KnownVersions, Rows, plan_source, source_name
from registry import Manifest, Registry


def make_plan(
    pipeline: Pipeline, registry: Registry, *, select: set[str], force: set[str], why: bool = False, rows: Rows = "read"
) -> Plan:
    """Plan the selected steps and everything they need. Sources that are not versions yet are read and typed.

    Args:
        rows: what is needed of sources that are no versions yet.

    Raises:
        PipelineError: a source has rows that do not fit its type.
        CorruptError: rows were not read, and the plan of some step needs them.
    """
    chosen = needed(pipeline, select)
    known = known_versions(pipeline, registry)
    source_plans = [
        plan_source(pipeline, each, registry, known, rows) for name, each in pipeline.sources.items() if name in chosen
    ]
    available: Available = {(source.name, ""): source.input for source in source_plans}
    step_plans = []
    to_run: list[Step] = []
    for name, step in pipeline.steps.items():
        if name not in chosen:
            continue
        missing = [link for link in step.links if link_key(link) not in available and link.kind == "step"]
        if missing:
            step_plans.append(_waiting(pipeline, step, missing))
            to_run.append(step)
            continue
        bound = with_models(step, available, registry)
        inputs = resolve_inputs(pipeline, bound, available, registry)
        plan = plan_step(pipeline, bound, inputs, registry, known, force=name in force)
        if why and plan.status != "HIT":
            plan = replace(plan, why=tuple(explain(pipeline, bound, plan, registry, forced=name in force)))
        available |= {(name, manifest.output): version_of(manifest) for manifest in plan.manifests}
        step_plans.append(plan)
        to_run += [bound] if plan.status != "HIT" else []
    servers = server_notes(to_run)
    step_plans = [replace(each, notes=(*each.notes, *servers.get(each.name, ()))) for each in step_plans]
    return Plan(pipeline.spec.name, tuple(source_plans), tuple(step_plans), identities(pipeline, chosen))


def identities(pipeline: Pipeline, chosen: set[str]) -> dict[str, str]:
    """The identities of the served models of some steps, by model, without models that are not trained yet."""
    return {
        step.spec.models.get(role, role): model.identity
        for name, step in pipeline.steps.items()
        for role, model in step.models.items()
        if name in chosen and model.spec.serve is not None and model.made_by is None
    }


def _waiting(pipeline: Pipeline, step: Step, missing: Sequence[Link]) -> StepPlan:
    """The plan of a step some of whose inputs are not there yet."""
    complete = barriers(pipeline, step)
    waits = {link.name for link in missing if link_key(link) in complete}
    return StepPlan(
        step.name,
        step.operator.name,
        "WAIT",
        waits_for=tuple(sorted(waits)),
        streams_from=tuple(sorted({link.name for link in missing} - waits)),
        notes=step.notes,
    )


def needed(pipeline: Pipeline, select: set[str]) -> set[str]:
    """The selected steps (all steps if none is selected), with every dataset and step they need."""
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
    pipeline: Pipeline, step: Step, inputs: Inputs, registry: Registry, known: KnownVersions, *, force: bool = False
) -> StepPlan:
    """Plan a step over given inputs: whether it hits, resumes or runs.

    Args:
        known: as for `find_outputs`.
        force: run all of it, even if it hits or some partitions have receipts.
    """
    plan = keyed(pipeline, step, inputs, registry)
    manifests = () if force else find_outputs(pipeline, step, plan.key, registry, known)
    if manifests:
        return replace(plan, status="HIT", manifests=manifests)
    if plan.undecided:
        return replace(plan, status="WAIT", notes=step.notes)
    return _with_progress(plan, step, registry, force=force)


def keyed(pipeline: Pipeline, step: Step, inputs: Inputs, registry: Registry, review: StepReview | None = None) -> StepPlan:
    """A step with its keys over given inputs. If versions of its streamed input are still missing, only the base key counts.

    Args:
        review: the decisions to use; by default the present ones.
    """
    refs = {port: tuple(each.ref for each in versions) for port, versions in inputs.items()}
    groups = row_groups_of(step, inputs, registry)
    review = review or review_of(pipeline, step, inputs, registry)
    document = step_document(step, refs, pipeline.seed_of(step.name), excluded_of(pipeline, step), groups, review)
    return StepPlan(
        step.name,
        step.operator.name,
        "RUN",
        rows=streamed_rows(step, inputs),
        key=step_key(document),
        base_key=step_key(base_document(document, step.operator.streamed)),
        document=document,
        inputs=inputs,
        row_groups=groups,
        review=review,
    )


def known_versions(pipeline: Pipeline, registry: Registry) -> KnownVersions:
    """The newest versions of a pipeline's sources and of the outputs of its steps, for `plan_source` and `find_outputs`."""
    names = [pipeline.output_name(name, output) for name, step in pipeline.steps.items() for output in step.operator.outputs]
    return registry.newest_by_step_key([*map(partial(source_name, pipeline), pipeline.sources), *names])


def find_outputs(
    pipeline: Pipeline, step: Step, key: str, registry: Registry, known: KnownVersions | None = None
) -> tuple[Manifest, ...]:
    """The versions of all outputs of a step under its key; none if one of them is missing or incomplete.

    Args:
        known: versions to look at first. If they are not all that the step needs, the registry is asked.
    """
    names = {pipeline.output_name(step.name, output) for output in step.operator.outputs}

    def outputs(versions: Iterable[Manifest]) -> tuple[Manifest, ...]:
        found = {each.output: each for each in versions if each.name in names and registry.intact(each)}
        return tuple(found[output] for output in step.operator.outputs) if len(found) == len(names) else ()

    return outputs(registry.kept((known or {}).get(key, ()))) or outputs(registry.find_step(key))


def _with_progress(plan: StepPlan, step: Step, registry: Registry, *, force: bool) -> StepPlan:
    """The plan of a step that has to run: what of it is finished, and upper bounds for the rest."""
    receipts = Receipts.of(registry, plan.base_key)
    done = total = rows_done = 0
    # Cutting the input into partitions takes reading it, so it is only done where an earlier run has left something.
    if receipts.exist and not force:
        for part in partitions(step, plan.inputs, registry):
            total += 1
            if receipts.read(part.digest):
                done, rows_done = done + 1, rows_done + part.rows
    rows = plan.rows or 0
    bounds = bounds_of(step, plan.inputs, rows, rows - rows_done)
    return replace(
        plan,
        status="RESUME" if done else "RUN",
        done=done,
        total=total if done else None,
        calls=bounds.calls,
        tokens=bounds.tokens,
        cost_usd=bounds.cost_usd,
        notes=bounds.notes,
    )


def partitions(step: Step, inputs: Inputs, registry: Registry) -> Iterator[Partition]:
    """The partitions of a step whose inputs are all there."""
    streamed = step.operator.streamed
    if streamed is None:
        yield Partition(digest=WHOLE, rows=streamed_rows(step, inputs))
        return
    feed = Feed(registry.store, size_of(step), len(inputs[streamed]))
    for place, version in enumerate(inputs[streamed]):
        feed.add(place, version.data, valid=version.valid)
    while feed.can_cut:
        yield from feed.cut()[1]


def size_of(step: Step) -> Size:
    """The size of a step's partitions."""
    return size_for(step.operator, local_model=any(not model.spec.remote for model in step.models.values()))


def excluded_of(pipeline: Pipeline, step: Step) -> dict[str, frozenset[str]]:
    """The ids of rows that the exclusion list leaves out of a step's outputs, by output."""
    named = {output: pipeline.excluded.get(pipeline.output_name(step.name, output)) for output in step.operator.outputs}
    return {output: ids for output, ids in named.items() if ids}
