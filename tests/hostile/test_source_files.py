"""Files of rows and lists of exclusions that are bombs or garbage: one clear error, little memory, no traceback."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from engine.errors import EngineError, PipelineError
from engine.pipeline.check import check
from engine.sources.exclusions import add_to_list, read_exclusions
from engine.sources.ingest import ingest
from engine.spec.pipeline_spec import DatasetSpec
from operators.records import MathProblem
from registry import Registry

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}
BOMBS = {
    "jsonl": b'{"question": "' + b"a" * (24 << 20) + b'", "answer": "1"}\n',
    "csv": b'question,answer\n"' + b"a" * (24 << 20) + b'",1\n',
    "json": b'[{"question": "' + b"a" * (24 << 20) + b'", "answer": "1"}]',
    "tsv": b"question\tanswer\n" + (b"1" * 65536 + b"\t1\n") * 384,
}


@pytest.fixture(autouse=True)
def _empty_folder(workdir: Path) -> None:
    """Each test runs in an empty folder."""


def read(registry: Registry, path: str) -> int:
    dataset = DatasetSpec.model_validate({"type": "MathProblem", "path": path})
    return ingest("rows", dataset, MathProblem, Path(), 0, registry.store).rows


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("ending", BOMBS)
def test_a_decompression_bomb_is_refused_while_it_is_read(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, ending: str, packing: str
) -> None:
    monkeypatch.setattr("engine.sources.files.locations.FREE_BYTES", 1 << 20)
    name = f"bomb.{ending}.{packing}"
    Path(name).write_bytes(PACK[packing](BOMBS[ending]))
    tracemalloc.start()
    with pytest.raises(EngineError, match=rf"{name} expands to more than 200 times its size; .*decompress it yourself"):
        read(registry, name)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 16 << 20


def test_the_limits_of_rows_and_documents_are_in_the_errors(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.sources.files.readers.MAX_ROW_BYTES", 1 << 20)
    monkeypatch.setattr("engine.sources.files.readers.MAX_DOCUMENT_BYTES", 1 << 20)
    Path("row.csv").write_bytes(BOMBS["csv"])
    with pytest.raises(EngineError, match=r"row\.csv: a row has more than 1 MiB"):
        read(registry, "row.csv")
    Path("lines.csv").write_bytes(b'question,answer\n"' + b"a\n" * (1 << 20))
    with pytest.raises(EngineError, match=r"lines\.csv: a row has more than 1 MiB; is a double quote not closed"):
        read(registry, "lines.csv")
    Path("row.jsonl").write_bytes(BOMBS["jsonl"])
    with pytest.raises(PipelineError, match=r"row\.jsonl:1: .*the row has more than 1 MiB"):
        read(registry, "row.jsonl")
    Path("all.json").write_bytes(BOMBS["json"])
    with pytest.raises(EngineError, match=r"all\.json: a JSON file may have at most 1 MiB; use JSON Lines"):
        read(registry, "all.json")


GARBAGE = {
    "deep JSON": b"[" * 100_000,
    "a deep line": b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b', "answer": "1"}',
    "zeros": b"\0" * 5000,
    "noise": random.Random(1).randbytes(5000),
    "UTF-16": '{"question": "a", "answer": "1"}'.encode("utf-16"),
    "half a pair": b'{"question": "\\udc00", "answer": "1"}',
    "a key twice": b'{"question": "a", "question": "b", "answer": "1"}',
    "a number": b"1" * 5000,
}


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "csv.zst", "json.xz", "jsonl.bz2"])
@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_an_error_that_names_the_file(registry: Registry, ending: str, content: bytes) -> None:
    Path(f"d.{ending}").write_bytes(content)
    with pytest.raises(EngineError, match=rf"d\.{ending}"):
        read(registry, f"d.{ending}")
    packed = PACK.get(ending.partition(".")[2])
    if packed:
        Path(f"d.{ending}").write_bytes(packed(content))
        with pytest.raises(EngineError, match=rf"d\.{ending}"):
            read(registry, f"d.{ending}")


ROW = b'{"dataset": "a/b", "row_id": "' + b"0" * 64 + b'"'
LISTS = {
    **GARBAGE,
    "a long line": ROW + b', "seen_at": "' + b"x" * (1 << 20) + b'"}',
    "blanks": b" " * (1 << 20),
    "half a pair in a name": ROW.replace(b"a/b", b"\\ud800") + b"}",
    "half a pair in a note": ROW + b', "seen_at": "\\udfff"}',
    "an id that ends in a line break": ROW[:-1] + b'\\n"}',
    "a field of its own": ROW + b', "x": 1}',
    "NaN": ROW + b', "seen_at": NaN}',
    "a row twice named": ROW + b', "row_id": "' + b"1" * 64 + b'"}',
}  # fmt: skip


@pytest.mark.parametrize("content", LISTS.values(), ids=LISTS)
def test_an_invalid_exclusion_list_is_one_error_with_its_line(content: bytes) -> None:
    Path("rows.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n')
    Path("gone.jsonl").write_bytes(ROW + b"}\n" + content + b"\n")
    Path("p.yaml").write_text(
        "name: demo\nexclude: gone.jsonl\ndatasets: {r: {type: MathProblem, path: rows.jsonl}}\nsteps: {d: {op: dedup, in: r}}\n"
    )
    with pytest.raises(PipelineError, match=r"^p\.yaml:2:10: gone\.jsonl:2: not a line of an exclusion list") as wrong:
        check(Path("p.yaml"))
    assert len(wrong.value.problems) == 1
    assert len(str(wrong.value)) < 400
    with pytest.raises(EngineError, match=r"gone\.jsonl:2: "):
        add_to_list(Path("gone.jsonl"), [])


def test_a_list_that_cannot_be_opened_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("gone.jsonl").write_bytes(ROW + b"}\n")
    assert read_exclusions("gone.jsonl", Path()) == {"a/b": frozenset({"0" * 64})}

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(EngineError, match=r"cannot read the exclusion list gone\.jsonl: Permission denied"):
        read_exclusions("gone.jsonl", Path())
