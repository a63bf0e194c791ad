"""Reads datasets from files, hubs and generators, and validates their rows.

How bad input is handled:

* a row that does not fit its type stops the run before anything is paid for. The first 20 different errors are shown, at most
  3 with the same cause, and the others are counted. With `on_error: skip`, such rows go to the dataset's rejects instead;
* a file that is not UTF-8 is reported with the row and the byte. A row may have up to MAX_ROW_BYTES;
* rows in a known format of the type are converted, see `engine.sources.recognition`;
* fields that the type does not have are dropped at every depth, and those with values are listed by `engine plan` and the
  summary of the run;
* renaming a column that no row has is an error;
* a dataset without rows is an error, unless it has `allow_empty: true`;
* an image that cannot be read is an error of its row, see `engine.sources.images`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from engine.errors import PipelineError, Problem
from engine.fingerprint.code import code_of_source
from engine.operator.context import Reject
from engine.operator.images import referenced_images
from engine.operator.row_formats import RowFormat, readable
from engine.packages.catalogue import catalogue
from engine.sources import hub
from engine.sources.arrow_rows import ArrowRows, one_by_one
from engine.sources.coercion import UnfitError, coerced
from engine.sources.exclusions import EXCLUDED, digest
from engine.sources.files.heads import HEAD_BYTES, HEAD_ROWS, head
from engine.sources.files.locations import SourceFile, find_files
from engine.sources.files.readers import read_file
from engine.sources.findings import Findings, explained, problems_of
from engine.sources.images import ImageReader, files_of_images, folder_of_images
from engine.sources.recognition import columns, first_rows, format_of_rows, identity_of, named_format
from engine.sources.row import Row
from engine.spec.pipeline_spec import DatasetSpec
from registry import DataObject, ObjectStore, Record, SideObject
from registry.records.schema import fields_of_type
from registry.storage.checked_json import json_digest

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.sources.files.growth import Continued, Reached
    from registry.records.content import ContentHash

READER_VERSION = 3
"""Increase it when the readers return different rows for the same bytes."""

BATCH_ROWS = 4096
BATCH_BYTES = 2 << 20
"""How many records become Arrow rows at a time: records take several times the memory of their Arrow rows."""


@dataclass(frozen=True)
class Ingested:
    """A source's rows in the object store, not yet a version.

    `images` are the images that its rows refer to;
    `ignored` has the fields that the type does not have, each with its number of rows; `reached` is where the next version can
    continue, if the source is a file that can grow; `format` is the format of the rows, None for the type's own one.
    """

    data: tuple[DataObject, ...]
    content_id: str
    side: tuple[SideObject, ...]
    rows: int
    rejected: int
    ignored: Mapping[str, int]
    reached: Reached | None = None
    format: str | None = None
    images: tuple[DataObject, ...] = ()


def identity(
    spec: DatasetSpec,
    record: type[Record],
    base_dir: Path,
    seed: int,
    excluded: frozenset[str] = frozenset(),
    row_format: RowFormat | None = None,
) -> dict[str, Any] | None:
    """Everything that determines a source's rows, for its step key; None if the rows must be read first."""
    origin: dict[str, Any]
    name = None
    if spec.path is not None:
        origin = {"files": [_digest(file) for file in find_files(spec.path, base_dir)]}
    elif spec.generator is not None:
        name, _, task = spec.generator.partition("/")
        generator = catalogue().generators[name]
        origin = {
            "generator": generator.name,
            "task": task,
            "settings": dict(spec.with_),
            "seed": seed,
            "identity": generator.identity(),
        }
    else:
        return None  # a hub's data may change under the same name
    rules: dict[str, Any] = {"rename": spec.rename, "limit": spec.limit, "on_error": spec.on_error, "reader": READER_VERSION}
    rules |= {"defaults": spec.defaults} if spec.defaults else {}
    if excluded:
        rules["excluded"] = digest(excluded)
    if spec.images:
        rules["images"] = {"fields": list(spec.images), "files": files_of_images(spec, base_dir)}
    read_by = identity_of(row_format)
    return {"origin": origin, "type": fields_of_type(record), **code_of_source(record, name), **rules, **read_by}


def files_of(spec: DatasetSpec, base_dir: Path) -> tuple[str, ...]:
    """The files or the hub dataset that a source is read from, for display; none for a generator."""
    if spec.path is not None:
        return tuple(file.name for file in find_files(spec.path, base_dir))
    return (f"hf:{spec.hf}",) if spec.hf else ()


def source_key(identity: Mapping[str, Any]) -> str:
    """The step key of a source."""
    return json_digest({"source": dict(identity)})


def ingest(
    name: str,
    spec: DatasetSpec,
    record: type[Record],
    base_dir: Path,
    seed: int,
    store: ObjectStore,
    excluded: frozenset[str] = frozenset(),
    continued: Continued | None = None,
    row_format: RowFormat | None = None,
) -> Ingested:
    """Read and validate a source's rows into the object store; those with an id in `excluded` are rejected.

    Args:
        row_format: the format of the rows of files, as `format_of_files` finds it; that of a hub's rows is found here.
        continued: the part that the previous version has already, if the source is a file that grew.

    Raises:
        PipelineError: rows do not fit (with `on_error: stop`); each with its file and row number.
        EngineError: the source cannot be read.
    """
    import pyarrow as pa

    from engine.sources.files.growth import Reached, last_file
    from registry.catalog import side_schemas
    from registry.records.boundaries import split
    from registry.records.content import ContentHash

    found, data, last = Findings(), list[DataObject](), tuple[pa.Table, ...]()
    file = last_file(spec, base_dir)
    size = Path(file.path).stat().st_size if file else 0
    content = ContentHash(record.arrow_schema(), resumable=file is not None)
    if continued:
        content, data, last = continued.content, [*continued.kept], continued.last
        found.rows = continued.reached.rows
        found.columns.update(continued.reached.columns)
        found.ignored.update(continued.reached.ignored)
    images = ImageReader(spec, store)
    if spec.hf is not None:
        rows, row_format = _hub_rows(spec, record)
        if spec.images:
            rows = images.rows(one_by_one(rows), folder_of_images(spec, base_dir, None))
    else:
        rows = continued.added if continued else _rows(spec, record, base_dir, seed, row_format, images)
    if spec.limit is not None and not continued:
        rows = islice(one_by_one(rows), spec.limit)
    typed = _typed(rows, spec, record, excluded, found, row_format)
    for table, stored in store.put_tables(split(chain(last, _hashed(content, _batches(typed, record))))):
        data.append(DataObject(sha256=stored.sha256, bytes=stored.bytes, rows=table.num_rows, memory=table.nbytes))
    if problems := problems_of(name, spec, record, found, complete=spec.limit is None or found.rows < spec.limit):
        raise PipelineError(problems)
    extra = []
    if found.rejects:
        stored = store.put_table(pa.Table.from_pylist(found.rejects, schema=side_schemas.REJECTS))
        extra.append(SideObject(kind="rejects", sha256=stored.sha256, bytes=stored.bytes, rows=len(found.rejects)))
    ignored, state = dict(sorted(found.ignored.items())), content.state()
    reached = Reached(size, found.rows, sorted(found.columns), ignored, state) if file and state else None
    taken = sum(part.rows for part in data)
    name_of_format = row_format.name if row_format else None
    kept = tuple(DataObject(sha256=sha256, rows=0, bytes=images.sizes[sha256]) for sha256 in sorted(found.images))
    return Ingested(
        tuple(data), content.content_id(), tuple(extra), taken, len(found.rejects), ignored, reached, name_of_format, kept
    )


def head_problems(name: str, spec: DatasetSpec, record: type[Record], files: list[SourceFile], base_dir: Path) -> list[Problem]:
    """Problems in the first rows of a source's first file: rows that do not fit, and columns that do not exist.

    It reads at most HEAD_ROWS rows, and only if that is cheap.

    Raises:
        EngineError: the file cannot be read, or its rows fit several formats.
    """
    file = files[0]
    row_format = named_format(spec, record)
    if spec.on_error == "skip" or file.system is not None or (file.format == "json" and _size(file) > HEAD_BYTES):
        return []
    row_format = row_format or format_of_rows(first_rows(files, spec, record), spec, record)
    found = Findings()
    most = min(HEAD_ROWS, spec.limit or HEAD_ROWS)
    rows = _cut(head(files[:1], _wanted(spec, record, row_format), most), found)
    if spec.images:
        rows = ImageReader(spec, None).rows(rows, folder_of_images(spec, base_dir, file))
    for _ in _typed(rows, spec, record, frozenset(), found, row_format):
        pass
    every_column = file.format in ("csv", "tsv", "parquet") and found.rows
    whole = found.rows < most and not found.cut
    return problems_of(name, spec, record, found, complete=len(files) == 1 and bool(every_column or whole))


class _RowError(ValueError):
    """A row cannot be used; the text says why."""


def _wanted(spec: DatasetSpec, record: type[Record], row_format: RowFormat | None) -> frozenset[str]:
    """The columns of a source that its rows need."""
    return row_format.fields.union(spec.rename) if row_format else columns(record, spec)


def _typed(
    rows: Iterator[Row | ArrowRows],
    spec: DatasetSpec,
    record: type[Record],
    excluded: frozenset[str],
    found: Findings,
    row_format: RowFormat | None = None,
) -> Iterator[tuple[Record, int] | pa.Table]:
    """The rows that fit and are not excluded, as tables, or as records, each with its size."""
    by_row = bool(spec.defaults or excluded or row_format or spec.images)
    for row in one_by_one(rows) if by_row else _by_column(rows, spec, record, found):
        if not isinstance(row, Row):
            yield row
            continue
        number, error = found.rows, row.error
        found.rows += 1
        found.columns |= row.unread
        found.ignored.update(row.unread)
        if row.fields is not None:
            found.columns |= row.fields.keys()
            fields = {spec.rename.get(key, key): value for key, value in row.fields.items()}
            unknown: set[str] = set()
            try:
                if len(fields) < len(row.fields):
                    raise _RowError("after renaming, two columns have the same name")
                if row_format:
                    fields = _converted(fields, row_format, unknown)
                if spec.defaults:
                    fields |= {key: value for key, value in spec.defaults.items() if fields.get(key) is None}
                typed = record.model_validate(coerced(record, fields, unknown.add))
            except (_RowError, UnfitError) as invalid:
                error = str(invalid)
            except ValidationError as invalid:
                given = [*row.fields, *sorted(row.unread)]
                error = "; ".join(explained(item, given) for item in invalid.errors())
            else:
                found.ignored.update(unknown)
                if not (excluded and _row_id(typed) in excluded):
                    found.images.update(*(referenced_images(fields.get(name)) for name in spec.images))
                    yield typed, row.size
                    continue
                error = EXCLUDED
                found.excluded += 1
        if error == EXCLUDED or spec.on_error == "skip":
            found.rejects.append({"input": 0, "parent_row": number, "reason": f"{row.where}: {error}"})
            continue
        found.wrong(row.where, error)


def _converted(fields: dict[str, Any], row_format: RowFormat, unknown: set[str]) -> dict[str, Any]:
    """The fields of the record from a row in a format; `unknown` gets what it leaves out."""
    assert row_format.fits
    assert row_format.read
    if not row_format.fits(fields):
        has = ", ".join(key for key, value in fields.items() if value is not None) or "no values"
        raise _RowError(f"the row is not in the format {row_format.name} ({row_format.looks}); it has {has}")
    try:
        return row_format.read(fields, unknown.add)
    except Reject as reason:
        raise _RowError(f"in the format {row_format.name}: {reason}") from reason


def _by_column(
    rows: Iterator[Row | ArrowRows], spec: DatasetSpec, record: type[Record], found: Findings
) -> Iterator[Row | pa.Table]:
    """Rows that are read together as a table, if they can be typed by column; all others one by one."""
    from engine.sources.columnar import typed

    for each in rows:
        if isinstance(each, Row):
            yield each
        elif (table := typed(each.batch, record, spec.rename)) is None:
            yield from each
        else:
            found.rows += table.num_rows
            found.columns |= each.unread | {*each.batch.schema.names}
            found.ignored.update(dict.fromkeys(each.unread, table.num_rows))
            yield table


def _row_id(row: Record) -> str:
    from registry.records.content import row_id

    return row_id(row)


def _cut(rows: Iterator[Row], found: Findings) -> Iterator[Row]:
    """The rows, noting whether they are more than HEAD_BYTES, so that others may follow."""
    size = 0
    for row in rows:
        yield row
        size += row.size
        found.cut = size > HEAD_BYTES


def _hashed(content: ContentHash, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for table in tables:
        content.update(table)
        yield table


def _batches(rows: Iterator[tuple[Record, int] | pa.Table], record: type[Record]) -> Iterator[pa.Table]:
    """The rows as tables of bounded size, the last of which may be empty."""
    batch: list[Record] = []
    size = 0
    for each in rows:
        if not isinstance(each, tuple):
            if batch:
                yield record.to_table(batch)
                batch, size = [], 0
            yield each
            continue
        typed, bytes_ = each
        batch.append(typed)
        size += bytes_
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield record.to_table(batch)
            batch, size = [], 0
    yield record.to_table(batch)


def _rows(
    spec: DatasetSpec, record: type[Record], base_dir: Path, seed: int, row_format: RowFormat | None, images: ImageReader
) -> Iterator[Row | ArrowRows]:
    if spec.path is not None:
        for file in find_files(spec.path, base_dir):
            rows = read_file(file, _wanted(spec, record, row_format))
            yield from images.rows(one_by_one(rows), folder_of_images(spec, base_dir, file)) if spec.images else rows
    elif spec.generator is not None:
        name, _, task = spec.generator.partition("/")
        generator = catalogue().generators[name]
        for number, fields in enumerate(generator.function(task, spec.limit or 100, seed, spec.with_)):
            yield Row(f"{spec.generator} row {number + 1}", fields)


def _hub_rows(spec: DatasetSpec, record: type[Record]) -> tuple[Iterator[Row | ArrowRows], RowFormat | None]:
    """The rows of a hub's dataset, and their format."""
    name = f"{spec.hf}[{spec.split}]"
    loaded = hub.load(str(spec.hf), spec.split)
    widely = columns(record, spec, *readable(record).values())
    first = islice(one_by_one(hub.rows_of(loaded, name, widely, HEAD_ROWS)), min(HEAD_ROWS, spec.limit or HEAD_ROWS))
    row_format = format_of_rows(first, spec, record)
    return iter(hub.rows_of(loaded, name, _wanted(spec, record, row_format))), row_format


def _size(file: SourceFile) -> int:
    return Path(file.path).stat().st_size


def _digest(file: SourceFile) -> list[Any]:
    with file.reading(), file.open_raw() as content:
        digest = hashlib.file_digest(cast(io.BufferedReader, content), "sha256").hexdigest()
    return [file.format or "", digest, *([dict(file.partition)] if file.partition else [])]
