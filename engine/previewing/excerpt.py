"""The part of a pipeline that a preview runs: its steps over a few rows, without those that take hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.jobs.messages import InputVersion
from engine.llm.types.model_spec import ModelSpec
from engine.llm.weights import REGISTRY_PREFIX, identify
from engine.pipeline.graph import BoundModel, Link, Pipeline, Source, Step
from engine.planning.inputs import link_key, resolve_input, version_of
from engine.planning.plan import needed
from engine.planning.results import Plan, SourcePlan
from engine.planning.reviews import queue_of
from engine.planning.sources import store_document
from engine.previewing.results import Sampled
from engine.previewing.sample import drawn
from engine.spec.pipeline_spec import DatasetSpec
from registry import DataObject, Draft, Overlay, Record, VersionRef
from registry.records.schema import fields_of_type
from registry.storage.checked_json import json_digest


@dataclass(frozen=True)
class Excerpt:
    """What a preview runs.

    Args:
        pipeline: the pipeline over given versions. Its name is different, so that its outputs are never taken for real ones.
        given: these versions: rows that were drawn, and whole versions that operators look things up in.
        sampled: the versions of which rows were drawn.
        skipped: the steps that are not run, and why.
        up_to_date: the steps whose outputs are in the registry.
        uncertain: the steps that look things up in previewed rows: the run has other rows, so its prompts differ.
        notes: what users should know, by step.
    """

    pipeline: Pipeline
    given: tuple[SourcePlan, ...]
    sampled: tuple[Sampled, ...]
    skipped: Mapping[str, str]
    up_to_date: frozenset[str]
    uncertain: frozenset[str]
    notes: Mapping[str, str]


def excerpt(pipeline: Pipeline, plan: Plan, select: set[str], rows: int, overlay: Overlay) -> Excerpt:
    """The part of a pipeline to preview.

    Args:
        plan: the plan of these steps on the whole sources.
        select: the steps to preview, with what they need; all if empty.
        rows: the number of rows to draw of each version that steps process row by row, or compare with each other.
        overlay: gets what is drawn.
    """
    chosen = needed(pipeline, select)
    hits = {each.name: each for each in plan.steps if each.status == "HIT"}
    there = {(each.name, ""): each.input for each in plan.sources}
    there |= {(name, each.output): version_of(each) for name, plan in hits.items() for each in plan.manifests}
    giver = _Giver(pipeline, there, rows, overlay)
    steps: dict[str, Step] = {}
    skipped: dict[str, str] = {}
    uncertain: set[str] = set()
    for name, step in pipeline.steps.items():
        if name not in chosen or name in hits:
            continue
        if why := _why_not(step, skipped):
            skipped[name] = why
            continue
        looked_up = {link.name for port in _lookups(step) for link in step.inputs.get(port, ()) if link.kind == "step"}
        before = {link.name for link in step.links if link.kind == "step"}
        if uncertain & before or looked_up & steps.keys():
            uncertain.add(name)
        steps[name] = giver.bound(step)
    spec = pipeline.spec.model_copy(update={"name": f"preview of {pipeline.spec.name}"})
    made = replace(pipeline, spec=spec, sources=giver.sources, steps=steps)
    excluded = {
        made.output_name(name, output): ids
        for name in steps
        for output in steps[name].operator.outputs
        if (ids := pipeline.excluded.get(pipeline.output_name(name, output)))
    }
    return Excerpt(
        replace(made, excluded=excluded),
        tuple(giver.given.values()),
        tuple(giver.sampled.values()),
        skipped,
        frozenset(hits),
        frozenset(uncertain),
        giver.notes,
    )


def _lookups(step: Step) -> list[str]:
    """The inputs that a row or batch operator gets whole."""
    whole = [port for port, about in step.operator.inputs.items() if about.whole]
    return [] if step.operator.streamed is None else whole


def _why_not(step: Step, skipped: Mapping[str, str]) -> str:
    """Why a step is not previewed; empty if it is."""
    if any(record.registry_kind == "model" for record in step.operator.outputs.values()):
        return "it trains a model"
    for link in step.links:
        if link.kind == "step" and link.name in skipped:
            return f"it needs {link.name}, which is not previewed"
    return ""


class _Giver:
    """Makes the versions that the steps of an excerpt are given."""

    def __init__(
        self,
        pipeline: Pipeline,
        there: Mapping[tuple[str, str], InputVersion],
        rows: int,
        overlay: Overlay,
    ) -> None:
        self._pipeline = pipeline
        self._there = there
        self._rows = rows
        self._overlay = overlay
        self.sources: dict[str, Source] = {}
        self.given: dict[str, SourcePlan] = {}
        self.sampled: dict[str, Sampled] = {}
        self.notes: dict[str, str] = {}

    def bound(self, step: Step) -> Step:
        """The step over given versions, with its models. Rejected rows do not fail it: they are what a preview shows."""
        lookups = _lookups(step)
        inputs = {
            port: tuple(self._given(step, port, link, whole=port in lookups) for link in links)
            for port, links in step.inputs.items()
        }
        spec = step.spec.model_copy(update={"max_reject_ratio": 1.0})
        models = {role: self._model(step.name, model) for role, model in step.models.items()}
        queue = queue_of(self._pipeline, step) if step.operator.reviews else ""
        return replace(step, spec=spec, inputs=inputs, models=models, queue=queue)

    def _model(self, step: str, model: BoundModel) -> BoundModel:
        if model.made_by:
            # Its step is up to date, or this one would have been skipped.
            with self._overlay.below.session() as session:
                weights = identify(f"{REGISTRY_PREFIX}{self._there[link_key(model.made_by)].ref}", session)
            return replace(model, weights=weights, made_by=None)
        if model.spec.mode == "batch":
            note = "its calls are sent at once and at full price; the run sends them in batches"
            self.notes[step] = note
            fields = model.spec.model_dump()
            return replace(model, spec=ModelSpec.model_validate({**fields, "mode": "chat"}))
        return model

    def _given(self, step: Step, port: str, link: Link, *, whole: bool) -> Link:
        if link.kind == "step" and link_key(link) not in self._there:
            return link
        # Keyed by the version, so that a version that several steps read is drawn once.
        name = source_name(link)
        alias = f"{name} (whole)" if whole else name
        if alias not in self.given:
            version = resolve_input(self._pipeline, step, port, link, dict(self._there), self._overlay)
            record = self._record(link)
            self.sources[alias] = Source(alias, DatasetSpec(registry=name), record)
            self.given[alias] = self._plan(alias, link, record, version, whole=whole)
        return replace(link, kind="dataset", name=alias, output="", label=alias)

    def _record(self, link: Link) -> type[Record]:
        """The type of the rows; `Record` itself for a version that may have been written by older code."""
        if link.kind == "dataset":
            return self._pipeline.sources[link.name].record
        if link.kind == "step":
            return self._pipeline.steps[link.name].operator.outputs[link.output]
        return Record

    def _plan(self, alias: str, link: Link, record: type[Record], version: InputVersion, *, whole: bool) -> SourcePlan:
        data, identity = version.data, version.ref.content_id
        if not whole:
            data, identity = self._drawn(alias, version)
        draft = Draft(
            name=f"preview/{alias}",
            kind=record.registry_kind,
            type=link.type,
            fields=dict(link.fields) or fields_of_type(record),
            content_id=identity,
            pipeline="preview",
            step=alias,
            op="preview",
            output="",
            step_key=json_digest(["preview", alias, identity]),
            key_object=store_document(self._overlay, {"preview": alias}),
            data=data,
        )
        shown = InputVersion(ref=VersionRef(name=draft.name, version=0, content_id=identity), data=data)
        return SourcePlan(alias, "READ", draft.rows, shown, draft=draft)

    def _drawn(self, alias: str, version: InputVersion) -> tuple[tuple[DataObject, ...], str]:
        from registry.records.content import content_id  # imports Arrow, which `engine plan` may do without

        store = self._overlay.store
        rows = drawn(store, version.data, self._rows, self._pipeline.spec.seed)
        data = []
        for row in rows:
            stored = store.put_table(row)
            data.append(DataObject(sha256=stored.sha256, rows=1, bytes=stored.bytes, memory=row.nbytes))
        self.sampled[alias] = Sampled(alias, version.rows, len(rows))
        if not rows:
            return version.data, version.ref.content_id
        return tuple(data), content_id(rows[0].schema, rows)


def source_name(link: Link) -> str:
    """What a reference is called among what a preview draws from: `problems`, `cot.solved`, `other/rows@3`."""
    if link.kind == "registry":
        return f"{link.name} at {link.version}"
    return f"{link.name}.{link.output}" if link.output else link.name


def seeds_of_sampled(sampled: Sequence[Sampled]) -> dict[str, list[tuple[int, ...]]]:
    """The number of each row that was drawn, over all sources, as `PreviewRow.seeds` has it."""
    found: dict[str, list[tuple[int, ...]]] = {}
    first = 0
    for each in sampled:
        found[each.name] = [(first + row,) for row in range(each.drawn)]
        first += each.drawn
    return found
