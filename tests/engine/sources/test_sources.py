"""Rows are typed as they are read: good ones stay unchanged, bad ones are reported with file and row."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import EngineError, PipelineError
from engine.sources.files.locations import find_files
from engine.sources.ingest import Ingested, identity, ingest
from engine.spec.pipeline_spec import DatasetSpec
from operators.records import MathProblem
from registry import Registry

ROW = {"question": "1+1", "answer": "2"}


@pytest.fixture(autouse=True)
def _empty_folder(workdir: Path) -> None:
    """Each test runs in an empty folder."""


def read(registry: Registry, **spec: Any) -> tuple[Ingested, list[MathProblem]]:
    dataset = DatasetSpec.model_validate({"type": "MathProblem", **spec})
    got = ingest("problems", dataset, MathProblem, Path(), 0, registry.store)
    return got, [row for data in got.data for row in MathProblem.from_table(registry.store.read_table(data.sha256))]


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_every_format_gives_the_same_content(registry: Registry) -> None:
    rows = [{"question": f"{i}+1", "answer": f"0000{i + 1}", "id": f"é{i}"} for i in range(5)]
    Path("a.jsonl").write_bytes(b"\n".join([lines(*rows), b""]))
    Path("b.json").write_text(json.dumps(rows))
    Path("c.json").write_text(json.dumps({row["id"]: {"question": row["question"], "answer": row["answer"]} for row in rows}))
    Path("d.csv").write_text("question,answer,id\n" + "".join(f"{r['question']},{r['answer']},{r['id']}\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), "e.parquet")
    Path("f.jsonl.gz").write_bytes(gzip.compress(lines(*rows)))
    got = {file: read(registry, path=file) for file in ("a.jsonl", "b.json", "c.json", "d.csv", "e.parquet", "f.jsonl.gz")}
    assert {ingested.content_id for ingested, _ in got.values()} == {got["a.jsonl"][0].content_id}
    assert [row.answer for row in got["d.csv"][1]] == ["00001", "00002", "00003", "00004", "00005"]


def test_a_file_whose_name_is_not_utf_8_is_named_with_escapes(registry: Registry) -> None:
    Path(os.fsdecode(b"caf\xe9.jsonl")).write_bytes(lines(ROW))
    [file] = find_files("*.jsonl", Path())
    assert file.name == "caf\\udce9.jsonl"
    _, rows = read(registry, path="*.jsonl")
    assert len(rows) == 1


def test_globs_renames_and_limits_are_applied(registry: Registry) -> None:
    Path("x1.jsonl").write_bytes(lines({"q": "a", "answer": 1, "hint": "h"}))
    Path("x2.jsonl").write_bytes(lines({"q": "b", "answer": 2.5}, {"q": "c", "answer": 3}))
    got, rows = read(registry, path="x*.jsonl", rename={"q": "question"}, limit=2)
    assert [(row.question, row.answer) for row in rows] == [("a", "1"), ("b", "2.5")]
    assert got.ignored == {"hint": 1}


def test_missing_values_get_the_default(registry: Registry) -> None:
    Path("x.jsonl").write_bytes(lines(ROW, {**ROW, "source": "theirs"}))
    got, rows = read(registry, path="x.jsonl", defaults={"source": "ours"})
    assert [row.source for row in rows] == ["ours", "theirs"]
    plain, _ = read(registry, path="x.jsonl")
    assert got.content_id != plain.content_id
    spec = DatasetSpec.model_validate({"type": "MathProblem", "path": "x.jsonl", "defaults": {"source": "ours"}})
    other = DatasetSpec.model_validate({"type": "MathProblem", "path": "x.jsonl", "defaults": {"source": "yours"}})
    assert identity(spec, MathProblem, Path(), 0) != identity(other, MathProblem, Path(), 0)


def test_files_are_looked_up_in_the_working_directory_then_next_to_the_pipeline(tmp_path: Path) -> None:
    Path("sub").mkdir()
    Path("sub/d.jsonl").write_bytes(lines(ROW))
    assert [file.name for file in find_files("d.jsonl", Path("sub"))] == ["sub/d.jsonl"]
    Path("d.jsonl").write_bytes(lines(ROW))
    assert [file.name for file in find_files("d.jsonl", Path("sub"))] == ["d.jsonl"]
    assert [file.name for file in find_files(f"file://{tmp_path}/d.jsonl", Path())] == [f"file://{tmp_path}/d.jsonl"]


BAD = {
    "a missing field": (lines(ROW, {"question": "x"}), "d.jsonl:2: not a MathProblem: answer is missing"),
    "a field of another type": (lines({"question": ["x"], "answer": "1"}), "d.jsonl:1: .*question: must be text"),
    "no JSON": (lines(ROW) + b"{oops\n", "d.jsonl:2: .*not JSON"),
    "no number": (b'{"question": "x", "answer": NaN}\n', "d.jsonl:1: .*NaN is not a JSON value"),
    "a key twice": (b'{"question": "x", "question": "y", "answer": "1"}\n', "d.jsonl:1: .*duplicate key"),
    "no object": (lines([1]), "d.jsonl:1: .*a row must be a JSON object, but this is a list"),
    "not UTF-8": (lines(ROW) + b'{"question": "\xff", "answer": "1"}\n', "d.jsonl:2: .*not UTF-8 at byte 15"),
    "half a surrogate pair": (b'{"question": "\\ud800", "answer": "1"}\n', "d.jsonl:1: .*surrogate"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_a_bad_row_stops_the_run_with_file_and_row(registry: Registry, case: tuple[bytes, str]) -> None:
    raw, words = case
    Path("d.jsonl").write_bytes(raw)
    with pytest.raises(PipelineError, match=words) as wrong:
        read(registry, path="d.jsonl")
    assert "on_error: skip" in str(wrong.value)


@pytest.mark.parametrize(("row", "more"), [("What is 1,000 + 2?,1002", "more"), ("only one", "fewer")])
def test_a_csv_row_with_too_many_or_too_few_cells_is_an_error(registry: Registry, row: str, more: str) -> None:
    Path("d.csv").write_text(f"question,answer\n1+1,2\n{row}\n")
    with pytest.raises(PipelineError, match=rf"d\.csv:3: .*{more} cells than the header"):
        read(registry, path="d.csv")


def test_skipped_rows_are_kept_as_rejects(registry: Registry) -> None:
    Path("d.jsonl").write_bytes(lines(ROW, {"question": "x"}, ROW, [1]))
    got, rows = read(registry, path="d.jsonl", on_error="skip")
    assert (got.rows, got.rejected, len(rows)) == (2, 2, 2)
    rejects = registry.store.read_table(got.side[0].sha256).to_pylist()
    assert [(reject["parent_row"], reject["reason"].partition(": ")[0]) for reject in rejects] == [
        (1, "d.jsonl:2"),
        (3, "d.jsonl:4"),
    ]


def test_equal_errors_are_counted_on_one_line_three_of_a_cause_and_twenty_in_all_are_shown(registry: Registry) -> None:
    Path("d.jsonl").write_bytes(lines(*[{"question": "x", "hint": "y"}] * 50))
    with pytest.raises(
        PipelineError, match=r"d\.jsonl:1 \(49 more rows have the same error, the last is d\.jsonl:50\)"
    ) as wrong:
        read(registry, path="d.jsonl")
    assert len(wrong.value.problems) == 1
    Path("d.jsonl").write_bytes(lines(*[{"question": [n], "answer": "1"} for n in range(50)]))
    with pytest.raises(
        PipelineError, match=r"d\.jsonl:3 \(47 more rows have an error like this, the last is d\.jsonl:50\)"
    ) as wrong:
        read(registry, path="d.jsonl")
    assert len(wrong.value.problems) == 3
    Path("d.jsonl").write_bytes(lines(*[{"question": "x", a + b: "y"} for a in "abcde" for b in "abcdefghij"]))
    with pytest.raises(PipelineError, match="and 30 more rows") as wrong:
        read(registry, path="d.jsonl")
    assert len(wrong.value.problems) == 21


def test_an_error_about_a_missing_field_lists_the_columns(registry: Registry) -> None:
    Path("d.jsonl").write_bytes(lines({"question": "x", "anwser": "1"}))
    with pytest.raises(PipelineError, match=r"answer is missing; the row has question, anwser \(did you mean 'anwser'\?\)"):
        read(registry, path="d.jsonl")
    pq.write_table(pa.table({"question": ["x"], "solution": ["1"]}), "d.parquet")
    with pytest.raises(PipelineError, match="answer is missing; the row has question, solution"):
        read(registry, path="d.parquet")


def test_renaming_a_missing_column_is_an_error(registry: Registry) -> None:
    Path("d.jsonl").write_bytes(lines(ROW, ROW))
    with pytest.raises(PipelineError, match=r"rename: 'problems' has no column 'anser'"):
        read(registry, path="d.jsonl", rename={"anser": "source"})
    assert read(registry, path="d.jsonl", rename={"maybe_later": "source"}, limit=1)[0].rows == 1


def test_a_row_of_ten_megabytes_is_read_and_one_beyond_the_limit_is_not(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("d.jsonl").write_bytes(lines({"question": "x" * (10 << 20), "answer": "1"}, ROW))
    _, rows = read(registry, path="d.jsonl")
    assert [len(row.question) for row in rows] == [10 << 20, 3]
    monkeypatch.setattr("engine.sources.files.readers.MAX_ROW_BYTES", 1 << 20)
    got, rows = read(registry, path="d.jsonl", on_error="skip")
    assert [row.question for row in rows] == ["1+1"]
    assert got.rejected == 1


def test_rows_of_an_object_of_objects_have_their_keys_as_ids(registry: Registry) -> None:
    Path("d.json").write_text(json.dumps({"first": ROW, "second": {**ROW, "id": "own"}, "": {**ROW, "id": None}}))
    _, rows = read(registry, path="d.json")
    assert [row.id for row in rows] == ["first", "own", None]
    _, rows = read(registry, path="d.json", rename={"id": "source"})
    assert [row.source for row in rows] == ["first", "own", None]
    Path("d.json").write_text("{}")
    assert read(registry, path="d.json", allow_empty=True)[1] == []


def test_a_bad_row_of_an_object_of_objects_is_reported_with_its_key(registry: Registry) -> None:
    Path("d.json").write_text(json.dumps({"first": ROW, "second": {"question": "x"}}))
    with pytest.raises(PipelineError, match=r"d\.json row 2 \('second'\): not a MathProblem: answer is missing"):
        read(registry, path="d.json")
    Path("d.json").write_text('{"\\ud800": {"question": "x", "answer": "1"}}')
    with pytest.raises(PipelineError, match=r"d\.json row 1 \(.*surrogate"):
        read(registry, path="d.json")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"a": {"question": "x"}, "a": {}}', "duplicate key: 'a'"),
        (b'{"a": {"question": "x", "question": "y"}}', "duplicate key: 'question'"),
        (b'{"a": {}, "b": [1]}', "maps ids to objects; this is an object in which 'b' is a list"),
        (b'{"question": "x", "answer": "1"}', "maps ids to objects; this is an object in which 'question' is a string"),
        (b'"x"', "maps ids to objects; this is a string"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_json_object_without_rows_is_an_error(registry: Registry, raw: bytes, words: str) -> None:
    Path("d.json").write_bytes(raw)
    with pytest.raises(EngineError, match=words):
        read(registry, path="d.json")


@pytest.mark.parametrize("raw", [b"", b"\n\n"])
def test_an_empty_file_is_an_error_unless_allowed(registry: Registry, raw: bytes) -> None:
    Path("d.jsonl").write_bytes(raw)
    with pytest.raises(PipelineError, match=r"dataset 'problems' is empty: d.jsonl has no rows\n.*allow_empty: true"):
        read(registry, path="d.jsonl")
    got, rows = read(registry, path="d.jsonl", allow_empty=True)
    assert (got.rows, rows) == (0, [])


def test_a_file_whose_rows_are_all_skipped_counts_as_empty(registry: Registry) -> None:
    Path("d.jsonl").write_bytes(lines({"q": "x"}, {"q": "y"}))
    with pytest.raises(PipelineError, match=r"of 2 rows in d.jsonl, none fits: d.jsonl:1: question is missing"):
        read(registry, path="d.jsonl", on_error="skip")


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("d.json", b"3", "a list of objects"),
        ("d.json", b"[", "not JSON"),
        ("d.json", b'["\xff"]', "not UTF-8"),
        ("d.json", b'{"question": "x", "answer": "1"}', "a list of objects"),
        ("d.csv", b"question,answer\n\xff,1\n", "not UTF-8"),
        ("d.csv", b"question,question,answer\nx,y,1\n", "has a duplicate column"),
        ("d.csv", b'question,answer\n"' + b"x" * 200, "a row has more than 0 MiB; is a double quote not closed"),
        ("d.parquet", b"PAR1", "not a readable Parquet file"),
    ],
)
def test_an_unreadable_file_is_named(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, name: str, raw: bytes, words: str
) -> None:
    monkeypatch.setattr("engine.sources.files.readers.MAX_ROW_BYTES", 100)
    Path(name).write_bytes(raw)
    with pytest.raises(EngineError, match=rf"{name}.*{words}"):
        read(registry, path=name)


def test_the_identity_depends_on_the_content_not_the_name_or_the_time() -> None:
    def of(file: str, **more: Any) -> Any:
        return identity(DatasetSpec.model_validate({"type": "MathProblem", "path": file, **more}), MathProblem, Path(), 0)

    Path("a.jsonl").write_bytes(lines(ROW))
    Path("b.jsonl").write_bytes(lines(ROW))
    before = of("a.jsonl")
    assert of("b.jsonl") == before
    assert of("a.jsonl", limit=1) != before
    Path("a.jsonl").write_bytes(lines(ROW, ROW))
    assert of("a.jsonl") != before


def test_generated_problems_are_typed_and_the_same_every_time(registry: Registry) -> None:
    spec = {"generator": "reasoning_gym/chain_sum", "limit": 3, "with": {"min_terms": 2, "max_terms": 2}}
    first, rows = read(registry, **spec)
    assert len(rows) == 3
    assert all(row.source == "chain_sum" and row.answer for row in rows)
    assert read(registry, **spec)[0].content_id == first.content_id
