"""Rows of files as they stand there: JSON Lines, JSON, CSV, Parquet; on this machine or at a URL, also compressed.

A JSON file is a list of rows, or one object that maps ids to rows: there a row without a field `id` gets its key as `id`.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from engine.problems import EngineError

MAX_ROW_BYTES = 64 << 20
FORMATS = ("jsonl", "json", "csv", "parquet")


@dataclass(frozen=True)
class Row:
    """A row of a source before it is typed: where it stands, its fields, or why it cannot be read."""

    where: str
    fields: dict[str, Any] | None = None
    error: str = ""
    size: int = 0


def find_files(path: str, beside: Path) -> list[str]:
    """The files that `path` means: an fsspec URL, or a file or glob where the user stands, else beside the pipeline."""
    if "://" in path:
        import fsspec

        system, inner = fsspec.core.url_to_fs(path)
        return [system.unstrip_protocol(found) for found in sorted(system.glob(inner))]
    for folder in (Path(), beside):
        wanted = folder / Path(path).expanduser()
        if wanted.is_file():  # a name may have brackets
            return [str(wanted)]
        found = sorted(glob.glob(str(wanted), recursive=True))
        if files := [name for name in found if Path(name).is_file()]:
            return files
    return []


def format_of(file: str) -> str | None:
    """jsonl, json, csv or parquet by the file's name; None when it is something else."""
    suffix = Path(file.removesuffix(".gz")).suffix.lstrip(".").lower()
    suffix = {"ndjson": "jsonl", "pq": "parquet"}.get(suffix, suffix)
    return suffix if suffix in FORMATS else None


def read_file(file: str) -> Iterator[Row]:
    """The rows of a file in one of FORMATS.

    Raises:
        EngineError: the file as a whole cannot be read.
        OSError, EOFError: it cannot be read to its end.
    """
    yield from _READERS[format_of(file) or "jsonl"](file)


def _open(file: str) -> IO[bytes]:
    if "://" in file:
        import fsspec

        opened: IO[bytes] = fsspec.open(file, "rb", compression="infer").open()
        return opened
    return cast(IO[bytes], gzip.open(file, "rb")) if file.endswith(".gz") else open(file, "rb")


def _json_lines(file: str) -> Iterator[Row]:
    with _open(file) as lines:
        number = 0
        while line := lines.readline(MAX_ROW_BYTES + 1):
            number += 1
            where = f"{file}:{number}"
            if len(line) > MAX_ROW_BYTES:
                yield Row(where, error=f"the row has more than {MAX_ROW_BYTES >> 20} MiB")
                while line and not line.endswith(b"\n"):
                    line = lines.readline(MAX_ROW_BYTES)
                continue
            if not line.strip():
                continue
            try:
                value = _loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                yield _json_row(where, value, len(line), halves=bool(_HALF.search(line)))
            except UnicodeDecodeError as error:
                yield Row(where, error=f"not UTF-8 at byte {error.start + 1} of the row; save the file as UTF-8")
            except (ValueError, RecursionError) as error:
                yield Row(where, error=f"not JSON: {error}")


def _loads(text: str) -> Any:
    """JSON, without what the standard does not have: NaN, infinities, a key twice."""
    return json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object has the same key twice: {key!r:.60}")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""How half of a surrogate pair can be written: only so, for UTF-8 itself has none. (A whole pair has two of it.)"""


def _json_row(where: str, value: Any, size: int, *, halves: bool) -> Row:
    if not isinstance(value, dict):
        return Row(where, error=f"a row is a JSON object, this is a {type(value).__name__}")
    try:
        if halves:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Row(where, error="it has half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return Row(where, value, size=size)


def _json_document(file: str) -> Iterator[Row]:
    with _open(file) as content:
        raw = content.read()
    try:
        document = _loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise EngineError(f"{file}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{file}: not JSON: {error}. (One object a line is JSON Lines: name the file .jsonl)") from error
    halves = bool(_HALF.search(raw))
    if not isinstance(document, list | dict):
        raise EngineError(f"{file}: {_DOCUMENT}; this is a {type(document).__name__}")
    size = len(raw) // max(1, len(document))
    if isinstance(document, list):
        for number, value in enumerate(document):
            yield _json_row(f"{file} row {number + 1}", value, size, halves=halves)
        return
    for key, value in document.items():
        if not isinstance(value, dict):
            raise EngineError(f"{file}: {_DOCUMENT}; this is an object in which {key!r:.60} is a {type(value).__name__}")
    for number, (key, value) in enumerate(document.items()):
        yield _json_row(f"{file} row {number + 1} ({key!r:.60})", {"id": key, **value}, size, halves=halves)


_DOCUMENT = "a JSON file holds a list of objects, or one object that maps ids to objects"


_SURPLUS, _MISSING = "\0surplus", "\0missing"
"""Cells beyond the header, and cells that a short row lacks, as the CSV reader is told to mark them."""


def _csv(file: str) -> Iterator[Row]:
    with _open(file) as content:
        csv.field_size_limit(MAX_ROW_BYTES)
        reader = csv.DictReader(io.TextIOWrapper(content, encoding="utf-8-sig", newline=""), restkey=_SURPLUS, restval=_MISSING)
        while True:
            try:
                if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
                    raise EngineError(f"{file}: the header names a column twice")
                fields = next(reader, None)
            except UnicodeDecodeError as error:
                raise EngineError(f"{file}: not UTF-8 after line {reader.line_num}; save the file as UTF-8") from error
            except csv.Error as error:
                raise EngineError(f"{file}:{reader.line_num}: not CSV: {error}") from error
            if fields is None:
                return
            where = f"{file}:{reader.line_num}"
            if _SURPLUS in fields or _MISSING in fields.values():
                more = "more" if _SURPLUS in fields else "fewer"
                yield Row(where, error=f"the row has {more} cells than the header; put text with commas in double quotes")
                continue
            # An empty cell is no value: it becomes the field's default, or is reported as missing.
            present = {key: value for key, value in fields.items() if value != ""}
            yield Row(where, present, size=sum(map(len, present.values())))


def _parquet(file: str) -> Iterator[Row]:
    import pyarrow.parquet as pq

    try:
        with _open(file) as content, pq.ParquetFile(content) as parquet:
            number = 0
            for batch in parquet.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{file} row {number}", fields, size=batch.nbytes // max(1, batch.num_rows))
    except (pa.ArrowException, OSError) as error:
        raise EngineError(f"{file}: not a readable Parquet file: {error}") from error


_READERS = {"jsonl": _json_lines, "json": _json_document, "csv": _csv, "parquet": _parquet}


def open_raw(file: str) -> IO[bytes]:
    """The file's bytes as they are stored."""
    if "://" in file:
        import fsspec

        opened: IO[bytes] = fsspec.open(file, "rb").open()
        return opened
    return open(file, "rb")
