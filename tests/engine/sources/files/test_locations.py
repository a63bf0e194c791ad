"""Files at URLs are read like local files: over HTTP, from S3, chained, compressed. Errors name them but show no secret."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import EngineError, PipelineError
from engine.pipeline.check import check
from engine.sources.files.locations import find_files
from engine.sources.ingest import ingest
from engine.spec.pipeline_spec import DatasetSpec
from operators.records import MathProblem
from registry import Registry
from tests.s3_server import s3_files

ROWS = [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(3)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def parquet() -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), content)
    return content.getvalue()


FILES = {
    "rows.jsonl": LINES,
    "rows.json": json.dumps(ROWS).encode(),
    "rows.csv": b"question;answer\n" + b"".join(f"{row['question']};{row['answer']}\n".encode() for row in ROWS),
    "rows.parquet": parquet(),
    "rows.jsonl.gz": gzip.compress(LINES),
    "rows.jsonl.bz2": bz2.compress(LINES),
    "rows.jsonl.xz": lzma.compress(LINES),
    "rows.jsonl.zst": pa.Codec("zstd").compress(LINES, asbytes=True),
    "rows.parquet.gz": gzip.compress(parquet()),
}


class Handler(SimpleHTTPRequestHandler):
    """A plain server without ranges; it requires a token below /private, and compresses below /encoded."""

    def do_GET(self) -> None:
        if self.path.startswith("/private") and "token=s3cr3t-value" not in self.path:
            self.send_error(403)
        elif self.path.startswith("/encoded"):
            content = FILES["rows.jsonl.gz"]
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if self.command == "GET" else b"")
        elif self.command == "GET":
            super().do_GET()
        else:
            super().do_HEAD()

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """Serve the files; return the URL of their folder."""
    folder = tmp_path / "site"
    for place in (folder, folder / "private"):
        place.mkdir()
        for name, content in FILES.items():
            (place / name).write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def read(registry: Registry, path: str, **spec: Any) -> list[dict[str, str]]:
    dataset = DatasetSpec.model_validate({"type": "MathProblem", "path": path, **spec})
    got = ingest("rows", dataset, MathProblem, Path(), 0, registry.store)
    records = [row for data in got.data for row in MathProblem.from_table(registry.store.read_table(data.sha256))]
    return [{"question": row.question, "answer": row.answer} for row in records]


def test_every_format_is_read_from_a_server_without_ranges(registry: Registry, site: str) -> None:
    for name in FILES:
        assert read(registry, f"{site}/{name}") == ROWS, name
    assert read(registry, f"{site}/rows.jsonl?download=true&v=1.csv#top") == ROWS
    assert read(registry, f"{site}/encoded/rows.jsonl.gz") == ROWS


def test_every_format_is_read_locally_and_through_chained_urls(registry: Registry, site: str, tmp_path: Path) -> None:
    for name in FILES:
        assert read(registry, f"site/{name}") == ROWS, name
    with zipfile.ZipFile("rows.zip", "w") as packed:
        for part in ("a/x.jsonl", "a/y.jsonl", "b/x.jsonl"):
            packed.writestr(part, LINES)
    chain = f"zip://a/x.jsonl::file://{tmp_path}/rows.zip"
    assert [file.name for file in find_files(chain, Path())] == [chain]
    assert read(registry, chain) == ROWS
    assert read(registry, f"zip://a/*.jsonl::file://{tmp_path}/rows.zip") == ROWS * 2
    assert read(registry, f"simplecache::{site}/rows.jsonl?x=1") == ROWS
    assert find_files(f"zip://a/none.jsonl::file://{tmp_path}/rows.zip", Path()) == []


def test_every_format_is_read_from_s3(registry: Registry, s3: str) -> None:
    for name, content in FILES.items():
        s3_files().pipe_file(f"bucket/d/source=it/{name}", content)
    s3_files().pipe_file("bucket/d/[odd] name?.jsonl", LINES)
    for name in FILES:
        assert read(registry, f"s3://bucket/d/source=it/{name}") == ROWS, name
    assert read(registry, "s3://bucket/d/[odd] name?.jsonl") == ROWS
    files = find_files("s3://bucket/d/*/*.jsonl*", Path())
    assert files[0].name == "s3://bucket/d/source=it/rows.jsonl"
    assert all(file.partition == {"source": "it"} for file in files)
    assert find_files("s3://bucket/none.jsonl", Path()) == []
    with pytest.raises(EngineError, match=r"s3://bucket/d is a folder; name its files, for example s3://bucket/d/\*.jsonl"):
        find_files("s3://bucket/d/", Path())


PIPELINE = """\
name: demo
datasets:
  rows: {type: MathProblem, path: "%s"}
steps:
  once: {op: dedup, in: rows, with: {method: exact}}
"""


def problem(path: str) -> str:
    Path("p.yaml").write_text(PIPELINE % path)
    with pytest.raises(PipelineError) as wrong:
        check(Path("p.yaml"))
    return str(wrong.value)


def test_unreachable_locations_are_reported_with_their_line(workdir: Path, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem(f"{site}/none.jsonl") == f"p.yaml:3:35: there is no file {site}/none.jsonl"
    assert problem(f"{site}/private/rows.jsonl") == (
        f"p.yaml:3:35: cannot read {site}/private/rows.jsonl: the server denies access (HTTP 403 Forbidden). Check the address; "
        "if it needs a token, use `${env.NAME}` in it"
    )
    refused = problem("http://127.0.0.1:9/rows.jsonl")
    assert "p.yaml:3:35: cannot read http://127.0.0.1:9/rows.jsonl: " in refused
    assert "Connect" in refused
    assert "Protocol not known: nosuch" in problem("nosuch://x/rows.jsonl")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # another test's server and credentials
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    found = problem("s3://some-bucket/rows.jsonl")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # it has no credentials, and other tests have
    assert found.startswith("p.yaml:3:35: cannot read s3://some-bucket/rows.jsonl: no usable credentials")
    assert "AWS_ACCESS_KEY_ID" in found


def test_secrets_in_urls_come_from_the_environment_and_are_never_shown(
    registry: Registry, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{site}/private/rows.jsonl?token=${{env.DATA_TOKEN}}"
    assert problem(path) == "p.yaml:3:35: the environment variable DATA_TOKEN is not set"
    monkeypatch.setenv("DATA_TOKEN", "wrong-value")
    assert "wrong-value" not in problem(path)
    monkeypatch.setenv("DATA_TOKEN", "s3cr3t-value")
    assert read(registry, path) == ROWS
    [file] = find_files(path, Path())
    assert "s3cr3t" not in file.name + repr(file)
    Path("site/private/rows.jsonl").write_bytes(LINES + b"{}\n")
    with pytest.raises(PipelineError) as wrong:
        read(registry, path)
    assert "s3cr3t" not in str(wrong.value)
    assert "/private/rows.jsonl?token=" in str(wrong.value)


def test_a_server_that_stops_midway_is_an_error(registry: Registry) -> None:
    class Short(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(LINES)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Short)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        with pytest.raises(EngineError, match=r"cannot read http://127.0.0.1:\d+/rows.jsonl: "):
            read(registry, f"http://127.0.0.1:{server.server_port}/rows.jsonl")
    finally:
        server.shutdown()
        server.server_close()
    Path("cut.jsonl.gz").write_bytes(gzip.compress(LINES * 100)[:-10])
    with pytest.raises(EngineError, match=r"cannot read cut\.jsonl\.gz: .*end"):
        read(registry, "cut.jsonl.gz")
