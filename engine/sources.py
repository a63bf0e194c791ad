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

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from pydantic import ValidationError

from engine.exclusion import EXCLUDED, digest
from engine.keys import code_of_source
from engine.operators import catalogue
from engine.problems import EngineError, PipelineError, Problem
from engine.readers import Row, find_files, format_of, open_raw, read_file
from engine.spec import DatasetSpec
from registry import DataObject, ObjectStore, Record, SideObject, side
from registry.content import content_id, row_id
from registry.record import fields_of
from registry.store import json_digest

READER_VERSION = 2
"""To be raised when the readers below give other rows for the same bytes."""

CHUNK_ROWS = 8192
CHUNK_BYTES = 16 << 20
"""Of an object. Readers of a part of it decode all of it, and it is in memory a few times over while it is written."""
SHOWN_BAD_ROWS = 20


@dataclass(frozen=True)
class Ingested:
    """A source's rows in the object store, not yet a version."""

    data: tuple[DataObject, ...]
    content_id: str
    side: tuple[SideObject, ...]
    rows: int
    rejected: int
    ignored: tuple[str, ...]


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
    rules |= {"defaults": spec.defaults} if spec.defaults else {}
    if excluded:
        rules["excluded"] = digest(excluded)
    return {"origin": origin, "type": fields_of(record.arrow_schema()), **code_of_source(record, name), **rules}


def files_of(spec: DatasetSpec, beside: Path) -> tuple[str, ...]:
    """The files, or the Hub's dataset, that a source is read from, for people; none for a generator."""
    if spec.path is not None:
        return tuple(find_files(spec.path, beside))
    return (f"hf:{spec.hf}",) if spec.hf else ()


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
            twice = len(fields) < len(row.fields)
            fields |= {key: value for key, value in spec.defaults.items() if fields.get(key) is None}
            found.ignored |= fields.keys() - known
            try:
                if twice:
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
                yield from read_file(file)
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


def _digest(file: str) -> list[str]:
    with open_raw(file) as content:
        return [format_of(file) or "", hashlib.file_digest(cast(io.BufferedReader, content), "sha256").hexdigest()]
