"""A run's events as OpenLineage, for tools like Marquez.

A run is a run of the job `<pipeline>`; each of its steps is a run of the job `<pipeline>.<step>`, with the former as
its parent. Datasets and models are datasets by the names that they have in the registry.

Events are written as plain data, because importing the package `openlineage-python` imports HTTP clients. The tests check them
with its classes.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic_core import to_json

from registry.catalog.manifest import Event, Manifest, StepRun, VersionRef

NAMESPACE = "engine"
"""The namespace of all jobs and datasets."""

PRODUCER = "pkg:pypi/posttrain-engine"
"""The `producer` of an event, and the `_producer` of a facet."""

_SPEC = "https://openlineage.io/spec"
_CORE = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs"

FACET_SCHEMA = f"{_CORE}/RunFacet"
"""The `_schemaURL` of our own run facet, which may have any properties."""

_FACETS = {
    "DatasetTypeDatasetFacet": "1-0-1",
    "DatasetVersionDatasetFacet": "1-0-1",
    "DocumentationJobFacet": "1-1-0",
    "ErrorMessageRunFacet": "1-0-1",
    "ExecutionParametersRunFacet": "1-0-0",
    "JobTypeJobFacet": "2-0-4",
    "NominalTimeRunFacet": "1-0-1",
    "OutputStatisticsOutputDatasetFacet": "1-0-2",
    "ParentRunFacet": "1-2-0",
    "ProcessingEngineRunFacet": "1-1-1",
    "SchemaDatasetFacet": "1-2-0",
}
"""The versions of the schemas of facets."""

_Json = dict[str, Any]

_RUNS = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)
_STATES = {"running": "START", "succeeded": "COMPLETE", "failed": "FAIL", "interrupted": "ABORT", "waiting": "ABORT"}
_OUTCOMES = {"failed": "FAIL", "stopped": "ABORT", "waiting": "ABORT"}
"""The outcomes of steps that are not `COMPLETE`."""


def line(event: Event, manifests: Sequence[Manifest] = ()) -> dict[str, Any]:
    """One event as an OpenLineage RunEvent, as JSON; the same event always gives the same JSON.

    `run.facets` is a dict that more facets can be put into.

    Args:
        event: must name its pipeline.
        manifests: the versions that a step made, or reused when it was a hit. Marquez shows the inputs and outputs of the
            last event of a job: a step without manifests has no datasets.

    Raises:
        ValueError: the event names no pipeline, or lacks its step.
    """
    if not event.pipeline:
        raise ValueError(
            f"run {event.run_id}: the event {event.event!r} must name its pipeline, which is the job in OpenLineage"
        )
    if (event.event == "step") != (event.step is not None):
        raise ValueError(f"run {event.run_id}: a 'step' event must have a step, and no other event may have one")
    return _step_event(event, event.step, manifests) if event.step else _pipeline_event(event)


def _pipeline_event(event: Event) -> _Json:
    facets = _run_facets(event)
    if params := event.source.get("params"):
        given = [{"key": name, "value": _text(value)} for name, value in params.items()]
        facets["executionParameters"] = _facet("ExecutionParametersRunFacet", parameters=given)
    file = event.source.get("file")
    return _run_event(
        event,
        _STATES[event.state],
        run={"runId": _run_id(event), "facets": facets},
        job=_job(event.pipeline, "PIPELINE", f"pipeline in {file}" if file else ""),
        outputs=[_dataset(name, _version(number), outputFacets={}) for name, number in event.refs.items()],
    )


def _step_event(event: Event, step: StepRun, manifests: Sequence[Manifest]) -> _Json:
    ended = step.ended_at or event.at
    started = step.started_at or ended - dt.timedelta(seconds=step.seconds)
    pipeline = {"namespace": NAMESPACE, "name": event.pipeline}
    facets = _run_facets(event) | {
        "parent": _facet("ParentRunFacet", run={"runId": _run_id(event)}, job=pipeline),
        # No event is written when a step starts, so this one has the start time.
        "nominalTime": _facet("NominalTimeRunFacet", nominalStartTime=_time(started), nominalEndTime=_time(ended)),
    }
    return _run_event(
        event,
        _OUTCOMES.get(step.outcome, "COMPLETE"),
        run={"runId": _run_id(event, step), "facets": facets},
        job=_job(f"{event.pipeline}.{step.full_step}", "STEP", f"operator {step.op}"),
        inputs=_inputs(manifests),
        outputs=[_output(manifest, written=step.outcome != "hit") for manifest in manifests],
    )


def _run_event(
    event: Event, kind: str, *, run: _Json, job: _Json, inputs: Sequence[_Json] = (), outputs: Sequence[_Json] = ()
) -> _Json:
    return {
        "eventTime": _time(event.at),
        "producer": PRODUCER,
        "schemaURL": f"{_CORE}/RunEvent",
        "run": run,
        "job": job,
        "eventType": kind,
        "inputs": [*inputs],
        "outputs": [*outputs],
    }


def _facet(kind: str, **fields: Any) -> _Json:
    return {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/facets/{_FACETS[kind]}/{kind}.json#/$defs/{kind}", **fields}


def _dataset(name: str, facets: _Json, **more: _Json) -> _Json:
    return {"namespace": NAMESPACE, "name": name, "facets": facets, **more}


def _run_id(event: Event, step: StepRun | None = None) -> str:
    """OpenLineage needs UUIDs for runs: they are derived from our run ids and step names."""
    run = uuid.uuid5(_RUNS, event.run_id)
    return str(uuid.uuid5(run, step.full_step) if step else run)


def _run_facets(event: Event) -> _Json:
    facets = {"processing_engine": _facet("ProcessingEngineRunFacet", version=_engine_version(), name="posttrain-engine")}
    if event.error is not None:
        facets["errorMessage"] = _facet("ErrorMessageRunFacet", message=event.error, programmingLanguage="python")
    return facets


def _job(name: str, kind: str, description: str) -> _Json:
    facets = {"jobType": _facet("JobTypeJobFacet", processingType="BATCH", integration="ENGINE", jobType=kind)}
    if description:
        facets["documentation"] = _facet("DocumentationJobFacet", description=description)
    return {"namespace": NAMESPACE, "name": name, "facets": facets}


def _inputs(manifests: Iterable[Manifest]) -> list[_Json]:
    """The inputs of a step's versions, each once: all outputs of a step have the same inputs."""
    refs: dict[str, VersionRef] = {str(ref): ref for m in manifests for ref in (*m.inputs, *m.models)}
    return [_dataset(ref.name, _version(ref.version), inputFacets={}) for ref in refs.values()]


def _output(manifest: Manifest, *, written: bool) -> _Json:
    kind = "TABLE" if manifest.kind == "dataset" else manifest.kind.upper()
    fields = [_field(name, label) for name, label in manifest.fields.items()]
    facets = _version(manifest.version) | {
        "datasetType": _facet("DatasetTypeDatasetFacet", datasetType=kind, subType=manifest.type),
        "schema": _facet("SchemaDatasetFacet", fields=fields),
    }
    objects = len(manifest.data) + len(manifest.attachments)
    statistics = _facet("OutputStatisticsOutputDatasetFacet", rowCount=manifest.rows, size=manifest.bytes, fileCount=objects)
    return _dataset(manifest.name, facets, outputFacets={"outputStatistics": statistics} if written else {})


def _version(number: int) -> _Json:
    return {"version": _facet("DatasetVersionDatasetFacet", datasetVersion=str(number))}


def _field(name: str, label: str) -> _Json:
    """A column with its nested fields, from its type label (`schema.type_label`)."""
    field: _Json = {"name": name, "type": label}
    bare = label.removesuffix("?")
    if bare.startswith("list["):
        field["fields"] = [_field("_element", bare[len("list[") : -1])]  # the spec's name for a list's items
    elif bare.startswith("{"):
        field["fields"] = [_field(*part.split(": ", 1)) for part in _parts(bare[1:-1])]
    return field


def _parts(text: str) -> Iterator[str]:
    """The parts of `a: x, b: {c: y, d: z}` between the outermost commas."""
    depth = start = 0
    for at, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            yield text[start:at]
            start = at + len(", ")
    if text:
        yield text[start:]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


def _time(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat()


@cache
def _engine_version() -> str:
    return version("posttrain-engine")
