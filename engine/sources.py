"""External inputs: rows of files, hubs and generators, typed at the door.

What is decided for bad input:

* a row that does not fit its type stops the run before anything is paid, all such rows named (the first 20 of them);
  `on_error: skip` keeps them in the dataset's rejects instead;
* a file that is not UTF-8 is reported with the row and the byte; a row may have up to MAX_ROW_BYTES;
* fields that the type does not know are left out, and `engine plan` and the run's summary say which;
* an empty file gives an empty dataset, with a warning: it may be right (a test set to compare with), and operators
  that cannot work on nothing say so.
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
from pydantic import ValidationError

from engine.exclusion import EXCLUDED, digest
from engine.keys import code_of_source
from engine.operators import catalogue
from engine.problems import EngineError, PipelineError, Problem
from engine.spec import DatasetSpec
from registry import DataObject, ObjectStore, Record, SideObject, side
from registry.content import content_id, row_id
from registry.record import fields_of
from registry.store import json_digest

READER_VERSION = 1
"""To be raised when the readers below give other rows for the same bytes."""

MAX_ROW_BYTES = 64 << 20
CHUNK_ROWS = 8192
CHUNK_BYTES = 16 << 20
"""Of an object. Readers of a part of it decode all of it, and it is in memory a few times over while it is written."""
SHOWN_BAD_ROWS = 20
FORMATS = ("jsonl", "json", "csv", "parquet")


@dataclass(frozen=True)
class Row:
    """A row of a source before it is typed: where it stands, its fields, or why it cannot be read."""

    where: str
    fields: dict[str, Any] | None = None
    error: str = ""
    size: int = 0


@dataclass(frozen=True)
class Ingested:
    """A source's rows in the object store, not yet a version."""

    data: tuple[DataObject, ...]
    content_id: str
    side: tuple[SideObject, ...]
    rows: int
    rejected: int
    ignored: tuple[str, ...]


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


def identity(
    spec: DatasetSpec, record: type[Record], beside: Path, seed: int, excluded: frozenset[str] = frozenset()
) -> dict[str, Any] | None:
    """Everything that determines a source's rows, for its step key; None when only reading it can tell."""
    origin: dict[str, Any]
    name = None
    if spec.path is not None:
        origin = {"files": [_digest(file) for file in find_files(spec.path, beside)]}
    elif spec.generator is not None:
        name, _, task = spec.generator.partition("/")
        generator = catalogue().generators[name]
        origin = {"generator": name, "task": task, "settings": dict(spec.with_), "seed": seed, "identity": generator.identity()}
    else:
        return None  # a hub's data can change behind its name
    rules: dict[str, Any] = {"rename": spec.rename, "limit": spec.limit, "on_error": spec.on_error, "reader": READER_VERSION}
    if excluded:
        rules["excluded"] = digest(excluded)
    return {"origin": origin, "type": fields_of(record.arrow_schema()), **code_of_source(record, name), **rules}


def source_key(identity: Mapping[str, Any]) -> str:
    """The step key of a source."""
    return json_digest({"source": dict(identity)})


def ingest(
    name: str,
    spec: DatasetSpec,
    record: type[Record],
    beside: Path,
    seed: int,
    store: ObjectStore,
    excluded: frozenset[str] = frozenset(),
) -> Ingested:
    """Read and type a source's rows into the object store; those with an id in `excluded` are rejected.

    Raises:
        PipelineError: rows do not fit (with `on_error: stop`); each with its file and row number.
        EngineError: the source cannot be read.
    """
    found = _Findings()
    data: list[DataObject] = []
    typed = _typed(islice(_rows(spec, beside, seed), spec.limit), spec, record, excluded, found)
    identity = content_id(record.arrow_schema(), _stored(typed, record, store, data))
    if problems := found.problems:
        if found.bad > len(problems):
            problems.append(Problem(f"... and {found.bad - len(problems)} more rows of {name!r}"))
        hint = "correct the rows, map columns with `rename`, or keep going without them: `on_error: skip`"
        raise PipelineError([*problems[:-1], Problem(problems[-1].message, hint=hint)])
    extra = []
    if found.rejects:
        stored = store.put_table(pa.Table.from_pylist(found.rejects, schema=side.REJECTS))
        extra.append(SideObject(kind="rejects", sha256=stored.sha256, bytes=stored.bytes, rows=len(found.rejects)))
    rows, ignored = sum(part.rows for part in data), tuple(sorted(found.ignored))
    return Ingested(tuple(data), identity, tuple(extra), rows, len(found.rejects), ignored)


class _RowError(ValueError):
    """Why a row cannot be taken as it is."""


@dataclass
class _Findings:
    """What comes to light while rows are typed."""

    ignored: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    bad: int = 0


def _typed(
    rows: Iterator[Row], spec: DatasetSpec, record: type[Record], excluded: frozenset[str], found: _Findings
) -> Iterator[tuple[Record, int]]:
    """The rows that fit and are not excluded, as records, each with its size."""
    known = set(record.model_fields)
    for number, row in enumerate(rows):
        error = row.error
        if row.fields is not None:
            fields = {spec.rename.get(key, key): value for key, value in row.fields.items()}
            found.ignored |= fields.keys() - known
            try:
                if len(fields) < len(row.fields):
                    raise _RowError("after renaming, two columns have the same name")
                typed = record.model_validate({key: fields[key] for key in fields.keys() & known})
            except _RowError as invalid:
                error = str(invalid)
            except ValidationError as invalid:
                error = "; ".join(_explain(item) for item in invalid.errors())
            else:
                if not (excluded and row_id(typed) in excluded):
                    yield typed, row.size
                    continue
                error = EXCLUDED
        if error == EXCLUDED or spec.on_error == "skip":
            found.rejects.append({"input": 0, "parent_row": number, "reason": f"{row.where}: {error}"})
            continue
        found.bad += 1
        if found.bad <= SHOWN_BAD_ROWS:
            found.problems.append(Problem(f"{row.where}: not a {record.type_name()}: {error}"))


def _stored(
    rows: Iterator[tuple[Record, int]], record: type[Record], store: ObjectStore, data: list[DataObject]
) -> Iterator[pa.Table]:
    """Records as tables of bounded size, each in the store, and noted in `data`, before it is given; at least one."""
    rows_left = True
    while rows_left:
        chunk: list[Record] = []
        size = 0
        for typed, bytes_ in rows:
            chunk.append(typed)
            size += bytes_
            if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                break
        else:
            rows_left = False
        if chunk or not data:
            table = record.to_table(chunk)
            stored = store.put_table(table)
            data.append(DataObject(sha256=stored.sha256, bytes=stored.bytes, rows=len(chunk), memory=table.nbytes))
            yield table


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{where} is missing"
    given = error.get("input")
    shown = f" (given: {given!r:.60})" if not isinstance(given, dict) else ""
    return f"{where}: {error['msg']}{shown}"


def _rows(spec: DatasetSpec, beside: Path, seed: int) -> Iterator[Row]:
    if spec.path is not None:
        for file in find_files(spec.path, beside):
            try:
                yield from _READERS[format_of(file) or "jsonl"](file)
            except (EOFError, OSError) as error:
                raise EngineError(f"{file}: cannot be read to its end: {error}") from error
    elif spec.generator is not None:
        name, _, task = spec.generator.partition("/")
        generator = catalogue().generators[name]
        for number, fields in enumerate(generator.function(task, spec.limit or 100, seed, spec.with_)):
            yield Row(f"{spec.generator} row {number + 1}", fields)
    elif spec.hf is not None:
        yield from _hub_rows(spec.hf, spec.split)


def _hub_rows(name: str, split: str) -> Iterator[Row]:
    import datasets

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub's client raises errors of a dozen unrelated classes
        raise EngineError(f"cannot load {name!r} (split {split!r}) from the hub: {type(error).__name__}: {error}") from error
    for number, fields in enumerate(loaded):
        yield Row(f"{name}[{split}] row {number + 1}", fields)


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
        raise ValueError("an object has the same key twice")
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


def _json_array(file: str) -> Iterator[Row]:
    with _open(file) as content:
        raw = content.read()
    try:
        document = _loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise EngineError(f"{file}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from error
    except ValueError as error:
        raise EngineError(f"{file}: not JSON: {error}. (One object a line is JSON Lines: name the file .jsonl)") from error
    # A list of rows, or a mapping from ids to rows.
    rows = list(document.values()) if isinstance(document, dict) else document
    if not isinstance(rows, list) or (isinstance(document, dict) and not all(isinstance(row, dict) for row in rows)):
        raise EngineError(f"{file}: a JSON file holds a list of objects, or a mapping from ids to objects")
    halves = bool(_HALF.search(raw))
    for number, value in enumerate(rows):
        yield _json_row(f"{file} row {number + 1}", value, len(raw) // max(1, len(rows)), halves=halves)


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


_READERS = {"jsonl": _json_lines, "json": _json_array, "csv": _csv, "parquet": _parquet}


def _digest(file: str) -> list[str]:
    with _open_raw(file) as content:
        return [format_of(file) or "", hashlib.file_digest(cast(io.BufferedReader, content), "sha256").hexdigest()]


def _open_raw(file: str) -> IO[bytes]:
    if "://" in file:
        import fsspec

        opened: IO[bytes] = fsspec.open(file, "rb").open()
        return opened
    return open(file, "rb")
