"""Events are valid OpenLineage by its own classes, and lose nothing that the registry knows about a step."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde
from openlineage.client.transport.file import FileConfig, FileTransport

from registry import DataObject, Manifest, Model, Record, StepRun, VersionRef
from registry.catalog.manifest import Event
from registry.catalog.openlineage import FACET_SCHEMA, PRODUCER, line
from registry.records.schema import fields_of

AT = dt.datetime(2026, 1, 2, 3, 4, 5, 600_000, dt.UTC)


class Turn(Record):
    role: str
    content: str


class Chat(Record):
    turns: list[Turn]
    score: float | None = None


def manifest(name: str, record: type[Record] = Chat, version: int = 3, **more: Any) -> Manifest:
    """A version with 5 rows in two objects of 100 bytes each."""
    stored = {"memory": 0, "bytes": 100}
    return Manifest(
        name=name,
        kind=record.registry_kind,
        type=record.type_name(),
        fields=fields_of(record.arrow_schema()),
        content_id="c" * 64,
        pipeline="math",
        step="solve",
        op="solve_math",
        output="out",
        step_key="k" * 64,
        key_object=DataObject(sha256="0" * 64, rows=0, bytes=7),
        data=(DataObject(sha256="1" * 64, rows=2, **stored), DataObject(sha256="2" * 64, rows=3, **stored)),
        version=version,
        run_id="r1",
        created_at=AT,
        **more,
    )


def ref(name: str, version: int = 1) -> VersionRef:
    return VersionRef(name=name, version=version, content_id="x" * 64)


def event(kind: Any, **more: Any) -> Event:
    return Event(event=kind, at=AT, run_id="r1", pipeline="math", **more)


def step(outcome: Any = "ran", name: str = "solve", **more: Any) -> Event:
    return event("step", step=StepRun(step=name, op="solve_math", outcome=outcome, seconds=1.5), **more)


MADE = (
    manifest("math/solve", inputs=(ref("math/problems", 2), ref("gsm/seed")), models=(ref("math/teacher", 4),)),
    manifest("math/solve.model", Model, inputs=(ref("math/problems", 2),)),
)
RUN: tuple[tuple[Event, tuple[Manifest, ...]], ...] = (
    (event("started", source={"file": "math.yaml", "params": {"n": 4, "topic": "sums", "limit": None}}), ()),
    (step(), MADE),
    (step("hit", "filter"), (manifest("math/filter", inputs=(ref("math/solve", 3),)),)),
    (step("resumed", "pairs"), ()),
    (step("failed", "train", error="out of memory"), ()),
    (step("stopped", "judge"), ()),
    (event("ended", state="failed", error="step 'train' failed: out of memory"), ()),
)
ENDS = (
    (event("ended", state="succeeded", refs={"math/solve": 3, "math/problems": 2}), ()),
    (event("ended", state="interrupted"), ()),
)


def facet_classes() -> dict[str, Any]:
    """The package's facet classes by the URL of their schema."""
    found: dict[str, Any] = {}
    waiting: list[Any] = [facet_v2.BaseFacet]
    while waiting:
        cls = waiting.pop()
        if "__init__" in vars(cls):  # attrs makes a class twice; the first one is there until it is collected
            found[cls._get_schema()] = cls
        waiting += cls.__subclasses__()
    return found


def rebuilt(document: dict[str, Any]) -> event_v2.RunEvent:
    """The document as the package's objects; a facet or field that they do not know is a TypeError or KeyError."""
    classes = facet_classes()

    def facets(named: dict[str, dict[str, Any]]) -> dict[str, Any]:
        made = {}
        for name, facet in named.items():
            fields = {key: value for key, value in facet.items() if not key.startswith("_")}
            made[name] = classes[facet["_schemaURL"]](producer=facet["_producer"], **fields)
        return made

    def part(cls: Any, given: dict[str, Any]) -> Any:
        return cls(**{key: facets(value) if key.lower().endswith("facets") else value for key, value in given.items()})

    fields = {key: value for key, value in document.items() if key != "schemaURL"}
    return event_v2.RunEvent(
        **fields
        | {
            "eventType": event_v2.RunState(document["eventType"]),
            "run": part(event_v2.Run, document["run"]),
            "job": part(event_v2.Job, document["job"]),
            "inputs": [part(event_v2.InputDataset, dataset) for dataset in document["inputs"]],
            "outputs": [part(event_v2.OutputDataset, dataset) for dataset in document["outputs"]],
        }
    )


def facets_of(document: dict[str, Any]) -> Any:
    return document["run"]["facets"]


@pytest.mark.parametrize(("one", "manifests"), [*RUN, *ENDS])
def test_openlineage_accepts_every_event_and_reads_back_the_same(one: Event, manifests: tuple[Manifest, ...]) -> None:
    document = line(one, manifests)
    # As text: the fields are in the order of the package's classes, too.
    assert json.dumps(Serde.to_dict(rebuilt(document))) == json.dumps(document)
    assert dt.datetime.fromisoformat(document["eventTime"]) == AT
    for facet in facets_of(document).values():
        assert facet["_producer"] == document["producer"] == PRODUCER


def test_a_run_goes_through_openlineages_own_file_transport_unchanged(tmp_path: Path) -> None:
    journal = tmp_path / "r1.ndjson"
    transport = FileTransport(FileConfig(str(journal), append=True))
    documents = [line(one, manifests) for one, manifests in RUN]
    for document in documents:
        transport.emit(rebuilt(document))
    assert [json.loads(text) for text in journal.read_text().splitlines()] == documents


def test_the_start_of_a_run_names_its_file_and_parameters() -> None:
    document = line(*RUN[0])
    assert (document["eventType"], document["job"]["name"]) == ("START", "math")
    job = document["job"]["facets"]
    kinds = [job["jobType"][key] for key in ("processingType", "integration", "jobType")]
    assert kinds == ["BATCH", "ENGINE", "PIPELINE"]
    assert job["documentation"]["description"] == "pipeline in math.yaml"
    params = {parameter["key"]: parameter["value"] for parameter in facets_of(document)["executionParameters"]["parameters"]}
    assert params == {"n": "4", "topic": "sums", "limit": "null"}
    assert facets_of(document)["processing_engine"]["name"] == "posttrain-engine"


def test_a_step_is_a_child_run_of_the_pipelines_run() -> None:
    started, solve, other, *_, ended = (line(one, manifests) for one, manifests in RUN)
    assert started["run"]["runId"] == ended["run"]["runId"]
    assert facets_of(solve)["parent"]["run"] == {"runId": started["run"]["runId"]}
    assert facets_of(solve)["parent"]["job"] == {"namespace": "engine", "name": "math"}
    assert solve["job"]["name"] == "math.solve"
    assert solve["job"]["facets"]["documentation"]["description"] == "operator solve_math"
    ids = {document["run"]["runId"] for document in (started, solve, other)}
    assert len(ids) == 3
    assert all(str(uuid.UUID(run_id)) == run_id for run_id in ids)


def test_a_step_has_its_start_time() -> None:
    nominal = facets_of(line(*RUN[1]))["nominalTime"]
    assert dt.datetime.fromisoformat(nominal["nominalStartTime"]) == AT - dt.timedelta(seconds=1.5)
    assert dt.datetime.fromisoformat(nominal["nominalEndTime"]) == AT


def test_a_step_that_recorded_its_times_has_those() -> None:
    started, ended = AT - dt.timedelta(seconds=9), AT - dt.timedelta(seconds=2)
    record = StepRun(step="solve", op="solve_math", outcome="ran", seconds=7, started_at=started, ended_at=ended)
    nominal = facets_of(line(event("step", step=record)))["nominalTime"]
    assert dt.datetime.fromisoformat(nominal["nominalStartTime"]) == started
    assert dt.datetime.fromisoformat(nominal["nominalEndTime"]) == ended


def test_a_steps_inputs_and_models_are_listed_once_with_their_versions() -> None:
    inputs = line(*RUN[1])["inputs"]
    assert [(dataset["name"], dataset["facets"]["version"]["datasetVersion"]) for dataset in inputs] == [
        ("math/problems", "2"),
        ("gsm/seed", "1"),
        ("math/teacher", "4"),
    ]


def test_a_steps_outputs_have_version_type_size_and_schema() -> None:
    chats, model = line(*RUN[1])["outputs"]
    assert (chats["namespace"], chats["name"], chats["facets"]["version"]["datasetVersion"]) == ("engine", "math/solve", "3")
    kinds = [
        (output["facets"]["datasetType"]["datasetType"], output["facets"]["datasetType"]["subType"])
        for output in (chats, model)
    ]
    assert kinds == [("TABLE", "Chat"), ("MODEL", "Model")]
    statistics = chats["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (5, 200, 2)
    inside = [{"name": "role", "type": "str"}, {"name": "content", "type": "str"}]
    turn = {"name": "_element", "type": "{role: str, content: str}", "fields": inside}
    assert chats["facets"]["schema"]["fields"] == [
        {"name": "turns", "type": "list[{role: str, content: str}]", "fields": [turn]},
        {"name": "score", "type": "float?"},
    ]


def test_a_hit_names_its_versions_but_wrote_nothing() -> None:
    document = line(*RUN[2])
    assert document["eventType"] == "COMPLETE"
    assert [dataset["name"] for dataset in document["inputs"]] == ["math/solve"]
    [output] = document["outputs"]
    assert output["facets"]["version"]["datasetVersion"] == "3"
    assert output["outputFacets"] == {}


@pytest.mark.parametrize(
    ("one", "kind", "message"),
    [
        (step("failed", error="out of memory"), "FAIL", "out of memory"),
        (step("failed"), "FAIL", None),
        (step("resumed"), "COMPLETE", None),
        (step("stopped"), "ABORT", None),
        (event("ended", state="failed", error="boom"), "FAIL", "boom"),
        (event("ended", state="interrupted", error="stopped by the user"), "ABORT", "stopped by the user"),
        (event("ended", state="interrupted"), "ABORT", None),
        (event("ended", state="succeeded"), "COMPLETE", None),
    ],
)
def test_an_end_has_its_outcome_and_reason(one: Event, kind: str, message: str | None) -> None:
    document = line(one)
    assert document["eventType"] == kind
    assert facets_of(document).get("errorMessage", {}).get("message") == message


def test_a_successful_run_outputs_the_versions_that_became_latest() -> None:
    outputs = line(*ENDS[0])["outputs"]
    assert [(dataset["name"], dataset["facets"]["version"]["datasetVersion"]) for dataset in outputs] == [
        ("math/solve", "3"),
        ("math/problems", "2"),
    ]


@pytest.mark.parametrize(("one", "manifests"), [*RUN, *ENDS])
def test_an_event_has_the_same_line_in_any_process_and_time_zone(one: Event, manifests: tuple[Manifest, ...]) -> None:
    read_again = Event.model_validate_json(one.model_dump_json())
    elsewhere = read_again.model_copy(update={"at": one.at.astimezone(dt.timezone(dt.timedelta(hours=5)))})
    assert json.dumps(line(elsewhere, manifests)) == json.dumps(line(one, manifests))


def test_run_ids_are_stable() -> None:
    # Lines that are sent later must refer to the same runs as earlier ones.
    assert [line(one)["run"]["runId"] for one in (event("started"), step())] == [
        "963ac102-4b33-51b1-aa48-f73be95f1ade",
        "4d4add38-cb35-5558-831d-c9e84e962166",
    ]


def test_our_facet_replaces_no_other_and_is_a_valid_run_facet() -> None:
    assert not any("engine" in facets_of(line(one, manifests)) for one, manifests in [*RUN, *ENDS])
    assert facet_v2.RunFacet._get_schema() == FACET_SCHEMA


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (step().model_copy(update={"pipeline": ""}), "run r1: the event 'step' must name its pipeline"),
        (event("step"), "run r1: a 'step' event must have a step"),
        (event("ended", step=step().step), "no other event may have one"),
    ],
)
def test_an_event_without_its_subject_is_refused(one: Event, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        line(one)


ARROW = st.recursive(
    st.sampled_from([pa.large_string(), pa.int64(), pa.timestamp("us", tz="UTC"), pa.date32()]),
    lambda inner: st.one_of(
        st.builds(lambda kind, null: pa.list_(pa.field("item", kind, null)), inner, st.booleans()),
        st.dictionaries(st.sampled_from("abcd"), inner, max_size=3).map(lambda fields: pa.struct(list(fields.items()))),
    ),
    max_leaves=8,
)


def children(kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    if pa.types.is_list(kind):
        yield "_element", kind.value_type
    elif pa.types.is_struct(kind):
        yield from ((field.name, field.type) for field in kind)


def assert_same_shape(fields: list[dict[str, Any]], expected: list[tuple[str, pa.DataType]]) -> None:
    assert [field["name"] for field in fields] == [name for name, _ in expected]
    for field, (_, kind) in zip(fields, expected, strict=True):
        assert_same_shape(field.get("fields", []), list(children(kind)))


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from("xyz"), ARROW, min_size=1))
def test_the_schema_of_any_record_has_all_fields(columns: dict[str, pa.DataType]) -> None:
    made = manifest("math/solve").model_copy(update={"fields": fields_of(pa.schema(list(columns.items())))})
    [output] = line(step(), [made])["outputs"]
    assert_same_shape(output["facets"]["schema"]["fields"], list(columns.items()))


def test_events_are_written_without_the_package() -> None:
    code = (
        "import datetime as dt, sys\n"
        "sys.modules['openlineage'] = None\n"
        "from registry.catalog.manifest import Event\n"
        "from registry.catalog.run_journal import sealed\n"
        "sealed(Event(event='started', at=dt.datetime.now(dt.UTC), run_id='r1', pipeline='math'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
