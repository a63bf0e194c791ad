"""Exports can be opened by other tools, say where they came from, and are either complete or absent."""

from __future__ import annotations

import base64
import datetime as dt
import enum
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import EngineError, PipelineError
from engine.export import writers
from engine.export.versions import MARK, export
from registry import CorruptError, DataObject, Draft, Manifest, Metric, Model, Record, Registry, StoredFile
from registry.records.content import content_id
from registry.records.schema import fields_of
from registry.storage.checked_json import canonical_json
from tests.registry.records.test_round_trip import assert_same, drawn_rows

FORMATS = ["hf", "parquet", "jsonl"]


class Mood(enum.Enum):
    good = "g"


class Turn(Record):
    role: str
    tags: dict[str, list[int]] = {}


class Row(Record):
    text: str
    number: int
    score: float
    at: dt.datetime
    day: dt.date
    mood: Mood | None = None
    turns: list[Turn | None] = []
    by_name: dict[str, float | None] = {}
    sure: bool = True


class Blob(Record):
    raw: bytes


ROWS = [
    Row(
        text="a\0b \N{SNAKE}\n",
        number=2**63 - 1,
        score=math.inf,
        at=dt.datetime(1899, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC),
        day=dt.date(1, 1, 1),
        mood=Mood.good,
        turns=[Turn(role="user", tags={"": [], "b c": [1]}), None],
        by_name={"x": -math.inf, "y": None},
    ),
    Row(text="", number=-(2**63), score=-0.0, at=dt.datetime(9999, 1, 1, tzinfo=dt.UTC), day=dt.date(9999, 12, 31)),
    Row(text="last", number=0, score=1e-300, at=dt.datetime(2024, 1, 1, tzinfo=dt.UTC), day=dt.date(2024, 2, 29)),
]


def commit(
    registry: Registry, name: str, objects: Sequence[Sequence[Record]], document: dict[str, Any] | None = None, **draft: Any
) -> Manifest:
    """A version with these rows in these objects, as a step would make it."""
    record = type(next(row for rows in objects for row in rows))
    tables = [record.to_table(rows) for rows in objects]
    stored = [registry.store.put_table(table) for table in tables]
    key = registry.store.put_bytes(canonical_json(document or {}))
    full = Draft.model_validate(
        {
            "name": name,
            "kind": record.registry_kind,
            "type": record.type_name(),
            "fields": fields_of(record.arrow_schema()),
            "content_id": content_id(record.arrow_schema(), tables),
            "pipeline": "demo",
            "step": name.partition("/")[2],
            "op": "made",
            "output": "out",
            "step_key": f"key of {name}",
            "key_object": DataObject(sha256=key.sha256, rows=0, bytes=key.bytes),
            "data": [
                DataObject(sha256=each.sha256, rows=len(rows), bytes=each.bytes)
                for each, rows in zip(stored, objects, strict=True)
            ],
            **draft,
        }
    )
    run = registry.catalog.begin_run("demo", {})
    [manifest] = registry.catalog.commit([full], run, None)
    registry.catalog.end_run(run, "succeeded", refs={name: manifest.version})
    return manifest


def plain(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows as Arrow returns them."""
    return type(rows[0]).to_table(rows).to_pylist()


def front(folder: Path) -> dict[str, Any]:
    """The metadata at the top of a card."""
    return dict(yaml.safe_load((folder / "README.md").read_text().split("---\n")[1]))


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_hugging_face_folder_is_opened_by_load_from_disk_and_by_load_dataset(registry: Registry, tmp_path: Path) -> None:
    import datasets

    commit(registry, "demo/rows", [ROWS[:1], [], ROWS[1:]])
    export(registry, "demo/rows@1", "hf", tmp_path / "out")
    mapped = datasets.load_from_disk(str(tmp_path / "out"))["train"]
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    streamed = datasets.load_dataset(str(tmp_path / "out"), streaming=True)["train"]
    assert mapped.to_list() == loaded.to_list() == list(streamed) == plain(ROWS)
    assert mapped.features == loaded.features == datasets.Features.from_arrow_schema(Row.arrow_schema())
    assert list(Row.from_table(mapped.data.table)) == ROWS
    metadata = front(tmp_path / "out")
    assert metadata["dataset_info"]["features"] == mapped.features._to_yaml_list()
    assert metadata["dataset_info"]["splits"][0]["num_examples"] == 3
    assert metadata["size_categories"] == ["n<1K"]


def test_a_parquet_folder_is_opened_by_duckdb_and_by_load_dataset(registry: Registry, tmp_path: Path) -> None:
    import datasets

    commit(registry, "demo/rows", [ROWS[:2], ROWS[2:]])
    done = export(registry, "demo/rows", "parquet", tmp_path / "out")
    assert list(done.files) == ["README.md", "data/train-00000-of-00001.parquet"]
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.to_list() == plain(ROWS)
    assert list(Row.from_table(pq.read_table(tmp_path / "out/data"))) == ROWS
    query = f"select text, number, by_name[1].value, r.at at time zone 'UTC' from '{tmp_path}/out/data/*.parquet' r"
    assert duckdb.sql(query).fetchall()[0] == (ROWS[0].text, ROWS[0].number, -math.inf, ROWS[0].at.replace(tzinfo=None))


def test_json_lines_are_read_back_as_the_same_records(registry: Registry, tmp_path: Path) -> None:
    import datasets

    commit(registry, "demo/cot.rows", [ROWS[:1], ROWS[1:]])
    export(registry, "demo/cot.rows", "jsonl", tmp_path / "out")
    text = (tmp_path / "out" / "demo-cot.rows.jsonl").read_bytes().decode("utf-8")
    documents = [json.loads(line, parse_constant=pytest.fail) for line in text.split("\n")[:-1]]
    assert [Row.model_validate(document) for document in documents] == ROWS
    assert documents[0]["by_name"] == {"x": "-Infinity", "y": None}
    assert documents[0]["turns"] == [{"role": "user", "tags": {"": [], "b c": [1]}}, None]
    assert documents[0]["at"] == "1899-12-31T23:59:59.999999+00:00"
    assert "\N{SNAKE}" in text
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded["text"] == [row.text for row in ROWS]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=drawn_rows())
def test_any_row_survives_json_lines(
    drawn: tuple[type[Record], list[Record]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    record, rows = drawn
    assume("bytes" not in str(fields_of(record.arrow_schema())))  # base64 is text to whoever reads it
    file = tmp_path_factory.mktemp("json") / "rows.jsonl"
    writers.write_jsonl(file, [record.to_table(rows)])
    documents = [json.loads(line, parse_constant=pytest.fail) for line in file.read_bytes().split(b"\n")[:-1]]
    assert_same([record.model_validate(document) for document in documents], rows)


def test_bytes_are_base64_in_json(registry: Registry, tmp_path: Path) -> None:
    commit(registry, "demo/blobs", [[Blob(raw=b"\0\xff")]])
    export(registry, "demo/blobs", "jsonl", tmp_path / "out")
    [line] = (tmp_path / "out" / "demo-blobs.jsonl").read_text().splitlines()
    assert base64.b64decode(json.loads(line)["raw"]) == b"\0\xff"


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_dataset_can_be_exported(registry: Registry, tmp_path: Path, format: Any) -> None:
    import datasets

    empty = Row.arrow_schema().empty_table()
    stored = registry.store.put_table(empty)
    data = [DataObject(sha256=stored.sha256, rows=0, bytes=stored.bytes)]
    commit(registry, "demo/none", [ROWS[:1]], data=data, content_id=content_id(empty.schema, []))
    export(registry, "demo/none", format, tmp_path / "out")
    if format == "jsonl":
        assert (tmp_path / "out" / "demo-none.jsonl").read_bytes() == b""
    elif format == "parquet":
        assert pq.read_table(tmp_path / "out/data") == empty
    else:
        loaded = datasets.load_from_disk(str(tmp_path / "out"))["train"]
        assert (loaded.num_rows, loaded.column_names) == (0, list(Row.model_fields))
        assert "load_from_disk" in (tmp_path / "out" / "README.md").read_text()
        with pytest.raises(ValueError, match="use `load_from_disk` instead"):  # it opens nothing without rows
            datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("format", ["hf", "parquet"])
def test_many_objects_are_exported_as_a_few_files_in_order(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    import datasets

    monkeypatch.setattr(writers, "GROUP_BYTES", 300)
    monkeypatch.setattr(writers, "SHARD_BYTES", 1000)
    turns = [Turn(role=f"role {number}", tags={"n": [number]}) for number in range(120)]
    commit(registry, "demo/turns", [turns[start : start + 2] for start in range(0, 120, 2)])
    done = export(registry, "demo/turns", format, tmp_path / "out")
    shards = [name for name in done.files if "-of-" in name]
    assert 3 < len(shards) < 20
    assert shards[-1].endswith(f"-{len(shards) - 1:05d}-of-{len(shards):05d}.{'arrow' if format == 'hf' else 'parquet'}")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded["role"] == [turn.role for turn in turns]


@pytest.mark.soak
@pytest.mark.parametrize("format", FORMATS)
def test_a_dataset_larger_than_memory_is_exported_object_by_object(registry: Registry, tmp_path: Path, format: str) -> None:
    blobs = [Turn(role="x" * (1 << 20)) for _ in range(16)]
    objects = [[*blobs, Turn(role=str(number))] for number in range(64)]  # 1 GB in memory, little on disk
    commit(registry, "demo/large", objects)
    code = (
        "import sys, pyarrow; from pathlib import Path; from registry import Registry; from engine.export.versions import export\n"
        "export(Registry(sys.argv[1]), 'demo/large', sys.argv[2], Path(sys.argv[3]))\n"
        "print(pyarrow.default_memory_pool().max_memory())"
    )
    command = [sys.executable, "-c", code, str(registry.root), format, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300 << 20


# -- models -----------------------------------------------------------------------------------------------------------


def trained(registry: Registry, files: dict[str, bytes], **model: Any) -> Manifest:
    """A version of a model with these files."""
    stored = {name: registry.store.put_bytes(data) for name, data in files.items()}
    row = Model(
        base_model="org/base",
        format="adapter",
        config='{"epochs": 3, "lora": {"r": 8}}',
        files=[StoredFile(name=name, sha256=each.sha256, bytes=each.bytes) for name, each in stored.items()],
    )
    attachments = [DataObject(sha256=each.sha256, rows=0, bytes=each.bytes) for each in stored.values()]
    losses = [Metric(metric="loss", slice=f"step {step}", value=1 / step) for step in range(1, 101)]
    return commit(registry, "demo/sft", [[row]], attachments=attachments, metrics=losses, **model)


WEIGHTS = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 9, "tokenizer/vocab.txt": b"a"}


def test_a_model_is_exported_as_its_folder_with_a_card(registry: Registry, tmp_path: Path) -> None:
    trained(registry, WEIGHTS)
    export(registry, "demo/sft", "hf", tmp_path / "out")
    for name, data in WEIGHTS.items():
        if name != "adapter_config.json":  # which names the base model
            assert (tmp_path / "out" / name).read_bytes() == data
    assert front(tmp_path / "out") == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["posttrain-engine"],
        "base_model": "org/base",
        "base_model_relation": "adapter",
    }
    text = (tmp_path / "out" / "README.md").read_text()
    for line in ("epochs: 3", "adapter (LoRA) on `org/base`", "| loss (100 values, first and last) | step 100 | 0.01 |"):
        assert line in text
    export(registry, "demo/sft", "jsonl", tmp_path / "rows")
    [row] = (tmp_path / "rows" / "demo-sft.jsonl").read_text().splitlines()
    assert [file["name"] for file in json.loads(row)["files"]] == list(WEIGHTS)


def test_a_models_file_cannot_leave_its_folder(registry: Registry, tmp_path: Path) -> None:
    trained(registry, {"../evil": b"x"})
    with pytest.raises(EngineError, match="leads outside its folder"):
        export(registry, "demo/sft", "hf", tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_several_models_cannot_share_a_folder(registry: Registry, tmp_path: Path) -> None:
    model = Model(base_model="b", format="full")
    commit(registry, "demo/two", [[model], [model]])
    with pytest.raises(EngineError, match="demo/two@1 has 2 models"):
        export(registry, "demo/two", "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(registry: Registry) -> Registry:
    commit(registry, "demo/rows", [ROWS])
    return registry


def test_a_nonempty_folder_is_refused(rows: Registry, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    for overwrite in (False, True):
        with pytest.raises(PipelineError, match="not empty, and its contents are not from an export"):
            export(rows, "demo/rows", "jsonl", tmp_path / "out", overwrite=overwrite)
    with pytest.raises(PipelineError, match="is a file"):
        export(rows, "demo/rows", "jsonl", tmp_path / "out" / "mine")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_overwriting_replaces_what_an_export_wrote_and_nothing_else(rows: Registry, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    export(rows, "demo/rows", "hf", out)
    (out / "train" / "mine").write_text("mine")
    with pytest.raises(PipelineError, match=r"contains an export of demo/rows@1\n    use --overwrite"):
        export(rows, "demo/rows", "parquet", out)
    export(rows, "demo/rows", "parquet", out, overwrite=True)
    left = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert left == [MARK, "README.md", "data/train-00000-of-00001.parquet", "train/mine"]
    (out / "train" / "mine").unlink()
    (out / "train").rmdir()
    done = export(rows, "demo/rows", "jsonl", out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [MARK, *sorted(done.files)]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_foreign_file_is_never_replaced(rows: Registry, tmp_path: Path) -> None:
    export(rows, "demo/rows", "jsonl", tmp_path / "out")
    (tmp_path / "out" / "data").mkdir()
    mine = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    mine.write_text("mine")
    with pytest.raises(PipelineError, match="in the way and is not from an export"):
        export(rows, "demo/rows", "parquet", tmp_path / "out", overwrite=True)
    assert mine.read_text() == "mine"
    assert (tmp_path / "out" / "demo-rows.jsonl").exists()


def test_a_forged_marker_cannot_delete_files_elsewhere(rows: Registry, tmp_path: Path) -> None:
    export(rows, "demo/rows", "jsonl", tmp_path / "out")
    (tmp_path / "precious").touch()
    mark = tmp_path / "out" / MARK
    mark.write_text(mark.read_text().replace("README.md", "../precious"))
    with pytest.raises(PipelineError, match="not from an export"):
        export(rows, "demo/rows", "parquet", tmp_path / "out", overwrite=True)
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_rows_are_not_exported(registry: Registry, tmp_path: Path, format: Any) -> None:
    manifest = commit(registry, "demo/rows", [ROWS[:2], ROWS[2:]])
    damaged = registry.store.path(manifest.data[1].sha256)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CorruptError, match=manifest.data[1].sha256):
        export(registry, "demo/rows", format, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_it_wrote(rows: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def printed(*arguments: str) -> str:
        words = ["--registry", str(rows.root), "export", *arguments]
        return CliRunner().invoke(app, words, catch_exceptions=False).stdout

    assert f"demo/rows@1 (3 rows) is in {tmp_path}/out: 2 files" in printed("demo/rows", "--to", "jsonl", f"{tmp_path}/out")
    result = json.loads(printed("demo/rows@1", "--to", "hf", f"{tmp_path}/out", "--overwrite", "--json"))
    assert (result["name"], result["version"], result["rows"], result["format"]) == ("demo/rows", 1, 3, "hf")
    assert sorted(result["files"]) == sorted(
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.name != MARK
    )


def test_exporting_imports_no_heavy_package(rows: Registry, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from registry import Registry; from engine.export.versions import export\n"
        "for to in ('hf', 'parquet', 'jsonl'): export(Registry(sys.argv[1]), 'demo/rows', to, Path(sys.argv[2]) / to)\n"
        "print(sorted({'datasets', 'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(rows.root), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
