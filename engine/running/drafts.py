"""From receipts to versions: puts a step's finished partitions together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from engine.fingerprint.code import code_of
from engine.jobs.messages import Receipt
from engine.pipeline.graph import Pipeline, Step
from engine.planning.plan import Input, StepPlan, store_document
from registry import DataObject, Draft, Metric, ObjectStore, Record, Registry, SideObject, VersionRef
from registry.catalog import side_schemas
from registry.records.artifacts import Artifact
from registry.records.content import content_id
from registry.records.schema import fields_of


def drafts(
    pipeline: Pipeline,
    step: Step,
    plan: StepPlan,
    inputs: Mapping[str, tuple[Input, ...]],
    receipts: Sequence[Receipt],
    registry: Registry,
) -> list[Draft]:
    """One draft for each output of a finished step; rows stand in the order of the input rows they came from."""
    store = registry.store
    ordered = sorted(receipts, key=lambda receipt: receipt.partition.start)
    key_object = store_document(registry, plan.document or {}, code_of(step.operator.name).code)
    refs = tuple(version.ref for versions in inputs.values() for version in versions)
    models = tuple(ref for role in step.models if (ref := _model_ref(step, role, registry)))
    made = []
    for place, (output, record) in enumerate(step.operator.outputs.items()):
        parts = [receipt.outputs[output] for receipt in ordered]
        data = tuple(part.data for part in parts if part.data)
        if closing := step.operator.closing.get(output):
            data = _closed(store, record, closing(_counted(ordered), step.params))
        if not data:
            stored = store.put_table(record.arrow_schema().empty_table())
            data = (DataObject(sha256=stored.sha256, rows=0, bytes=stored.bytes),)
        extra = _side_objects(store, ordered, output, record, rejects=place == 0)
        identity = content_id(record.arrow_schema(), (store.read_table(each.sha256) for each in data))
        opaque = _opaque(step, inputs, output, ordered)
        attachments = tuple(each for receipt in ordered for each in receipt.attachments) if issubclass(record, Artifact) else ()
        made.append(
            Draft(
                name=pipeline.output_name(step.name, output),
                kind=record.registry_kind,
                type=record.type_name(),
                fields=fields_of(record.arrow_schema()),
                content_id=identity,
                pipeline=pipeline.spec.name,
                step=step.name,
                op=step.operator.name,
                output=output,
                step_key=plan.key,
                key_object=key_object,
                inputs=refs,
                opaque=opaque,
                broadcast_inputs=_broadcast_inputs(step, inputs),
                models=models,
                data=data,
                side=extra,
                attachments=attachments,
                metrics=_metrics(step, ordered) if place == 0 else (),
                rows_in=plan.rows or 0,
                filtered=sum(receipt.filtered for receipt in ordered),
                rejected=sum(receipt.rejected for receipt in ordered),
                unused=sum(receipt.unused for receipt in ordered),
            )
        )
    return made


def _broadcast_inputs(step: Step, inputs: Mapping[str, tuple[Input, ...]]) -> tuple[int, ...]:
    if step.operator.shape == "whole":
        return ()
    whole = [step.operator.inputs[port].whole for port, versions in inputs.items() for _ in versions]
    return tuple(place for place, each in enumerate(whole) if each)


def _opaque(step: Step, inputs: Mapping[str, tuple[Input, ...]], output: str, receipts: Sequence[Receipt]) -> tuple[int, ...]:
    """Places (among all of a step's input versions) of those of which it is not known what rows they led to.

    That is an input of which no row was named as a source, and every input as soon as one row has no known source. Rows
    that are made from counters come from all.
    """
    if output in step.operator.closing:
        return tuple(range(sum(map(len, inputs.values()))))
    parts = [receipt.outputs[output] for receipt in receipts if receipt.outputs[output].data]
    told = {port for part in parts for port in part.told}
    orphans = any(part.orphans for part in parts)
    ports = [port for port, versions in inputs.items() for _ in versions]
    return tuple(place for place, port in enumerate(ports) if parts and (orphans or port not in told))


def _side_objects(
    store: ObjectStore, receipts: Sequence[Receipt], output: str, record: type[Record], *, rejects: bool
) -> tuple[SideObject, ...]:
    """A version's lineage as one object; its calls as they are, with the number of rows before them."""
    extra, pieces, base = [], [], 0
    for receipt in receipts:
        part = receipt.outputs[output]
        if part.lineage:
            table = store.read_table(part.lineage.sha256)
            shifted = pc.add(table["child_row"], pa.scalar(base, pa.int64()))
            pieces.append(table.set_column(0, side_schemas.LINEAGE.field("child_row"), shifted))
        if part.calls:
            extra.append(part.calls.model_copy(update={"base": base}))
        if rejects and receipt.rejects:
            extra.append(receipt.rejects)
        if receipt.exposure and record.registry_kind == "model":
            extra.append(receipt.exposure)
        base += part.data.rows if part.data else 0
    if pieces:
        edges = pa.concat_tables(pieces)
        stored = store.put_table(edges, delta=("child_row", "parent_row"))
        extra.insert(0, SideObject(kind="lineage", sha256=stored.sha256, rows=edges.num_rows, bytes=stored.bytes))
    return tuple(extra)


def _closed(store: ObjectStore, record: type[Record], made: Iterable[Record]) -> tuple[DataObject, ...]:
    rows = list(made)
    if not rows:
        return ()
    table = record.to_table(rows)
    stored = store.put_table(table)
    return (DataObject(sha256=stored.sha256, rows=len(rows), bytes=stored.bytes, memory=table.nbytes),)


def _counted(receipts: Sequence[Receipt]) -> dict[tuple[str, str], float]:
    counts: dict[tuple[str, str], float] = {}
    for receipt in receipts:
        for metric in receipt.counts:
            counts[metric.metric, metric.slice] = counts.get((metric.metric, metric.slice), 0) + metric.value
    return counts


def _metrics(step: Step, receipts: Sequence[Receipt]) -> tuple[Metric, ...]:
    counts = _counted(receipts)
    values = [metric for receipt in receipts for metric in receipt.values]
    added = (Metric(metric=name, slice=part, value=value) for (name, part), value in sorted(counts.items()))
    summary = step.operator.summary
    return (*added, *values, *(summary(counts) if summary else ()))


def _model_ref(step: Step, role: str, registry: Registry) -> VersionRef | None:
    weights = step.models[role].weights
    if weights is None or weights.source != "registry":
        return None
    name, _, version = weights.location.rpartition("@")
    return registry.manifest(name, int(version)).ref
