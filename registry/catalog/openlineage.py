"""A run's events as OpenLineage, for tools like Marquez.

A run is a run of the job `<pipeline>`; each of its steps is a run of the job `<pipeline>.<step>`, with the former as
its parent. Datasets and models are datasets by the names that they have in the registry.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from registry.catalog.manifest import Event, Manifest, StepRun, VersionRef

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent
    from openlineage.client.facet_v2 import DatasetFacet, JobFacet, RunFacet
    from openlineage.client.generated.schema_dataset import SchemaDatasetFacetFields

NAMESPACE = "engine"
"""The namespace of all jobs and datasets."""

PRODUCER = "pkg:pypi/posttrain-engine"
"""The `producer` of an event, and the `_producer` of a facet."""

FACET_SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet"
"""The `_schemaURL` of our own run facet, which may have any properties."""

_RUNS = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)
_STATES = {"running": "START", "succeeded": "COMPLETE", "failed": "FAIL", "interrupted": "ABORT"}
_OUTCOMES = {"failed": "FAIL", "stopped": "ABORT"}
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
    # Imported here because it imports HTTP clients, which takes 0.2 s.
    from openlineage.client.serde import Serde

    if not event.pipeline:
        raise ValueError(
            f"run {event.run_id}: the event {event.event!r} must name its pipeline, which is the job in OpenLineage"
        )
    if (event.event == "step") != (event.step is not None):
        raise ValueError(f"run {event.run_id}: a 'step' event must have a step, and no other event may have one")
    built = _step_event(event, event.step, manifests) if event.step else _pipeline_event(event)
    return Serde.to_dict(built)


def _pipeline_event(event: Event) -> RunEvent:
    from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import execution_parameters_run as parameters

    facets = _run_facets(event)
    if params := event.source.get("params"):
        given = [parameters.ExecutionParameter(name, value=_text(value)) for name, value in params.items()]
        facets["executionParameters"] = parameters.ExecutionParametersRunFacet(given, producer=PRODUCER)
    file = event.source.get("file")
    return RunEvent(
        eventType=RunState[_STATES[event.state]],
        eventTime=_time(event.at),
        run=Run(_run_id(event), facets),
        job=Job(NAMESPACE, event.pipeline, _job_facets("PIPELINE", f"pipeline in {file}" if file else "")),
        outputs=[OutputDataset(NAMESPACE, name, facets=_version(number)) for name, number in event.refs.items()],
        producer=PRODUCER,
    )


def _step_event(event: Event, step: StepRun, manifests: Sequence[Manifest]) -> RunEvent:
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import nominal_time_run, parent_run

    ended = step.ended_at or event.at
    started = step.started_at or ended - dt.timedelta(seconds=step.seconds)
    pipeline = parent_run.Job(NAMESPACE, event.pipeline, facets=None)
    facets = _run_facets(event) | {
        "parent": parent_run.ParentRunFacet(parent_run.Run(_run_id(event), facets=None), pipeline, producer=PRODUCER),
        # No event is written when a step starts, so this one has the start time.
        "nominalTime": nominal_time_run.NominalTimeRunFacet(_time(started), _time(ended), producer=PRODUCER),
    }
    return RunEvent(
        eventType=RunState[_OUTCOMES.get(step.outcome, "COMPLETE")],
        eventTime=_time(event.at),
        run=Run(_run_id(event, step), facets),
        job=Job(NAMESPACE, f"{event.pipeline}.{step.step}", _job_facets("STEP", f"operator {step.op}")),
        inputs=_inputs(manifests),
        outputs=[_output(manifest, written=step.outcome != "hit") for manifest in manifests],
        producer=PRODUCER,
    )


def _run_id(event: Event, step: StepRun | None = None) -> str:
    """OpenLineage needs UUIDs for runs: they are derived from our run ids and step names."""
    run = uuid.uuid5(_RUNS, event.run_id)
    return str(uuid.uuid5(run, step.step) if step else run)


def _run_facets(event: Event) -> dict[str, RunFacet]:
    from openlineage.client.facet_v2 import error_message_run, processing_engine_run

    engine = processing_engine_run.ProcessingEngineRunFacet(_engine_version(), "posttrain-engine", producer=PRODUCER)
    facets: dict[str, RunFacet] = {"processing_engine": engine}
    if event.error is not None:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(event.error, "python", producer=PRODUCER)
    return facets


def _job_facets(kind: str, description: str) -> dict[str, JobFacet]:
    from openlineage.client.facet_v2 import documentation_job, job_type_job

    facets: dict[str, JobFacet] = {"jobType": job_type_job.JobTypeJobFacet("BATCH", "ENGINE", kind, producer=PRODUCER)}
    if description:
        facets["documentation"] = documentation_job.DocumentationJobFacet(description, producer=PRODUCER)
    return facets


def _inputs(manifests: Iterable[Manifest]) -> list[InputDataset]:
    """The inputs of a step's versions, each once: all outputs of a step have the same inputs."""
    from openlineage.client.event_v2 import InputDataset

    refs: dict[str, VersionRef] = {str(ref): ref for m in manifests for ref in (*m.inputs, *m.models)}
    return [InputDataset(NAMESPACE, ref.name, facets=_version(ref.version)) for ref in refs.values()]


def _output(manifest: Manifest, *, written: bool) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import dataset_type_dataset, output_statistics_output_dataset, schema_dataset

    kind = "TABLE" if manifest.kind == "dataset" else manifest.kind.upper()
    fields = [_field(name, label) for name, label in manifest.fields.items()]
    facets = _version(manifest.version) | {
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(kind, manifest.type, producer=PRODUCER),
        "schema": schema_dataset.SchemaDatasetFacet(fields, producer=PRODUCER),
    }
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        manifest.rows, manifest.bytes, len(manifest.data) + len(manifest.attachments), producer=PRODUCER
    )
    return OutputDataset(NAMESPACE, manifest.name, {"outputStatistics": statistics} if written else {}, facets=facets)


def _version(number: int) -> dict[str, DatasetFacet]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(str(number), producer=PRODUCER)}


def _field(name: str, label: str) -> SchemaDatasetFacetFields:
    """A column with its nested fields, from its type label (`schema.type_label`)."""
    from openlineage.client.facet_v2 import schema_dataset

    bare = label.removesuffix("?")
    inner = None
    if bare.startswith("list["):
        inner = [_field("_element", bare[len("list[") : -1])]  # the spec's name for a list's items
    elif bare.startswith("{"):
        inner = [_field(*part.split(": ", 1)) for part in _parts(bare[1:-1])]
    return schema_dataset.SchemaDatasetFacetFields(name, label, fields=inner)


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
