"""Assembles drafts of versions from the receipts of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.fingerprint.code import code_of
from engine.jobs.messages import Receipt
from engine.operator.declaration.finish import Finished
from engine.packages.catalogue import full_name
from engine.pipeline.graph import Pipeline, Step
from engine.planning.inputs import Inputs
from engine.planning.results import StepPlan
from engine.planning.sources import store_document
from engine.running.addresses import InputRows
from engine.spec.variant_names import split_name
from registry import DataObject, Draft, Metric, ObjectStore, Record, Registry, SideObject, VersionRef
from registry.catalog import side_schemas
from registry.records.artifacts import Artifact
from registry.records.content import content_id
from registry.records.schema import fields_of_type


class Placed(NamedTuple):
    """A receipt, and the place of its first row in the streamed input."""

    first: int
    receipt: Receipt


def drafts(
    pipeline: Pipeline,
    step: Step,
    plan: StepPlan,
    placed: Sequence[Placed],
    content_ids: Mapping[str, str],
    registry: Registry,
) -> list[Draft]:
    """One draft for each output of a finished step; its rows are in the order of the input rows they were made from.

    Args:
        placed: all receipts, in the order of the input.
        content_ids: the content ids of the outputs, except those that the operator's finish function makes.
    """
    store, inputs = registry.store, plan.inputs
    ordered = [each.receipt for each in placed]
    key_object = store_document(registry, plan.document or {}, code_of(full_name(step.operator)).code)
    refs = tuple(version.ref for versions in inputs.values() for version in versions)
    models = tuple(ref for role in step.models if (ref := _model_ref(step, role, registry)))
    finished = step.operator.finished(_counted(ordered), step.params)
    input_rows = InputRows(step.operator, inputs)
    made = []
    for place, (output, record) in enumerate(step.operator.outputs.items()):
        parts = [receipt.outputs[output] for receipt in ordered]
        data = tuple(part.data for part in parts if part.data)
        if output in finished.rows:
            table = record.to_table(finished.rows[output])
            data, identity = _stored(store, table), content_id(record.arrow_schema(), [table])
        else:
            identity = content_ids[output]
        if not data:
            stored = store.put_table(record.arrow_schema().empty_table())
            data = (DataObject(sha256=stored.sha256, rows=0, bytes=stored.bytes),)
        extra = _side_objects(store, placed, input_rows, output, record, rejects=place == 0)
        opaque = _opaque(step, inputs, output, ordered)
        attachments = tuple(each for receipt in ordered for each in receipt.attachments) if issubclass(record, Artifact) else ()
        made.append(
            Draft(
                name=pipeline.output_name(step.name, output),
                kind=record.registry_kind,
                type=record.type_name(),
                fields=fields_of_type(record),
                content_id=identity,
                pipeline=pipeline.spec.name,
                step=split_name(step.name)[1],
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
                metrics=_metrics(ordered, finished) if place == 0 else (),
                rows_in=plan.rows or 0,
                filtered=sum(receipt.filtered for receipt in ordered),
                rejected=sum(receipt.rejected for receipt in ordered),
                unused=sum(receipt.unused for receipt in ordered),
            )
        )
    return made


def _broadcast_inputs(step: Step, inputs: Inputs) -> tuple[int, ...]:
    if step.operator.shape == "whole":
        return ()
    whole = [step.operator.inputs[port].whole for port, versions in inputs.items() for _ in versions]
    return tuple(place for place, each in enumerate(whole) if each)


def _opaque(step: Step, inputs: Inputs, output: str, receipts: Sequence[Receipt]) -> tuple[int, ...]:
    """The indices, among all input versions, of those for which it is unknown which rows they produced.

    These are the inputs none of whose rows was named as a source, and all inputs if any row has no known source. Rows
    made from counters come from all inputs.
    """
    if output in step.operator.finished_outputs:
        return tuple(range(sum(map(len, inputs.values()))))
    parts = [receipt.outputs[output] for receipt in receipts if receipt.outputs[output].data]
    known_parents = {port for part in parts for port in part.known_parents}
    some_unknown = any(part.rows_without_parent for part in parts)
    ports = [port for port, versions in inputs.items() for _ in versions]
    return tuple(place for place, port in enumerate(ports) if parts and (some_unknown or port not in known_parents))


def _side_objects(
    store: ObjectStore,
    placed: Sequence[Placed],
    input_rows: InputRows,
    output: str,
    record: type[Record],
    *,
    rejects: bool,
) -> tuple[SideObject, ...]:
    """A version's lineage, rejects and exposure as one object each, and its calls unchanged, each with the number of rows
    before it.
    """
    calls: list[SideObject] = []
    pieces: dict[str, list[_Piece]] = {"lineage": [], "rejects": [], "exposure": []}
    base = 0
    for first, receipt in placed:
        part = receipt.outputs[output]
        if part.in_place and part.data:
            pieces["lineage"].append(_Piece(input_rows.in_place(part.data.rows), first, base))
        for kind, side in (
            ("lineage", part.lineage),
            ("rejects", receipt.rejects if rejects else None),
            ("exposure", receipt.exposure if record.registry_kind == "model" else None),
        ):
            if side:
                pieces[kind].append(_Piece(store.read_table(side.sha256), first, base))
        if part.calls:
            calls.append(part.calls.model_copy(update={"base": base}))
        base += part.data.rows if part.data else 0
    made = {kind: _side_object(store, kind, input_rows, of) for kind, of in pieces.items() if of}
    return tuple(each for each in (made.get("lineage"), *calls, made.get("rejects"), made.get("exposure")) if each)


class _Piece(NamedTuple):
    """A side object of a receipt: the places of the first row of its partition, in the input and in the output."""

    table: pa.Table
    first: int
    base: int


_DELTAS = {"lineage": ("child_row", "parent_row"), "rejects": (), "exposure": ("parent_row",)}


def _side_object(store: ObjectStore, kind: Any, input_rows: InputRows, pieces: Sequence[_Piece]) -> SideObject:
    sizes = [each.table.num_rows for each in pieces]
    firsts, bases = (np.repeat([getattr(each, name) for each in pieces], sizes) for name in ("first", "base"))
    table = input_rows.named(pa.concat_tables([each.table for each in pieces]).combine_chunks(), firsts)
    if kind == "lineage":
        shifted = pc.add(table["child_row"], pa.array(bases))
        table = table.set_column(0, side_schemas.LINEAGE.field("child_row"), shifted)
    stored = store.put_table(table, delta=_DELTAS[kind])
    return SideObject(kind=kind, sha256=stored.sha256, rows=table.num_rows, bytes=stored.bytes)


def _stored(store: ObjectStore, table: pa.Table) -> tuple[DataObject, ...]:
    if not table.num_rows:
        return ()
    stored = store.put_table(table)
    return (DataObject(sha256=stored.sha256, rows=table.num_rows, bytes=stored.bytes, memory=table.nbytes),)


def _counted(receipts: Sequence[Receipt]) -> dict[tuple[str, str], float]:
    counts: dict[tuple[str, str], float] = {}
    for receipt in receipts:
        for metric in receipt.counts:
            counts[metric.metric, metric.slice] = counts.get((metric.metric, metric.slice), 0) + metric.value
    return counts


def _metrics(receipts: Sequence[Receipt], finished: Finished) -> tuple[Metric, ...]:
    counts = _counted(receipts)
    values = [metric for receipt in receipts for metric in receipt.values]
    added = (Metric(metric=name, slice=part, value=value) for (name, part), value in sorted(counts.items()))
    return (*added, *values, *finished.metrics)


def _model_ref(step: Step, role: str, registry: Registry) -> VersionRef | None:
    weights = step.models[role].weights
    if weights is None or weights.source != "registry":
        return None
    name, _, version = weights.location.rpartition("@")
    return registry.manifest(name, int(version)).ref
