"""Writes rows in the formats of other tools, as their record type knows them (see `engine.operator.row_formats`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.errors import PipelineError, Problem, did_you_mean
from engine.export import writers
from engine.export.card import Data
from engine.operator.context import Reject
from engine.operator.row_formats import Place, RowFormat, writable
from engine.packages.catalogue import AmbiguousNameError, catalogue
from registry import Manifest, Record, Registry
from registry.counted import counted

SHOWN = 5
"""The maximum number of rows whose errors are shown."""
ROWS = 1024
"""How many rows are written at a time."""


def format_to_write(manifest: Manifest, name: str, others: tuple[str, ...]) -> RowFormat:
    """The format of this name in which the rows of a version can be written.

    Args:
        others: other names that an export can be asked for, for the error.

    Raises:
        PipelineError: there is no such format.
    """
    try:
        known = writable(catalogue().records[manifest.type])
    except (KeyError, AmbiguousNameError):  # no installed package, or several, define the type
        known = {}
    if name in known:
        return known[name]
    choices = [*others, *known]
    hint = did_you_mean(name, choices, " ").strip()
    can = f"{manifest.ref} can be exported with --to {', '.join(choices)}" + (f"; {hint}" if hint else "")
    raise PipelineError([Problem(f"{manifest.ref} has rows of type {manifest.type}, which has no format {name!r}", hint=can)])


def write(registry: Registry, manifest: Manifest, row_format: RowFormat, folder: Path) -> Data:
    """Write the rows of a version into a folder: JSON Lines or, if the format has a schema, Parquet.

    Raises:
        PipelineError: rows cannot be expressed in the format; the first ones are named.
    """
    rows = _rows(registry, manifest, row_format)
    if row_format.schema:
        schema = row_format.schema()
        files = writers.write_parquet(folder / "data", schema, _tables(rows, schema))
        size = sum(file.stat().st_size for file in files)
        return Data(schema, f"data/{writers.SPLIT}-*.parquet", size, "parquet", row_format)
    file = folder / f"{manifest.name.replace('/', '-')}.jsonl"
    with file.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return Data(pa.schema([]), file.name, file.stat().st_size, "jsonl", row_format)


def _tables(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows as tables, the last of which is empty: a file without rows is one, too."""
    while some := list(islice(rows, ROWS)):
        yield pa.Table.from_pylist(some, schema=schema)
    yield schema.empty_table()


def _rows(registry: Registry, manifest: Manifest, row_format: RowFormat) -> Iterator[dict[str, Any]]:
    """The rows in the format. After a row that cannot be expressed, only errors are looked for."""
    assert row_format.write
    bad: list[Problem] = []
    count = 0
    for number, row in enumerate(_records(registry, manifest, row_format.record)):
        try:
            written = row_format.write(row, Place(manifest.name, number))
        except Reject as why:
            count += 1
            if len(bad) < SHOWN:
                bad.append(Problem(f"row {number} of {manifest.ref} cannot be written as {row_format.name}: {why}"))
            continue
        if not bad:
            yield written
    if bad:
        if count > len(bad):
            bad.append(Problem(f"... and {counted(count - len(bad), 'more row')}"))
        hint = "choose another format, or leave these rows out in the pipeline; --to jsonl writes every row"
        raise PipelineError([*bad[:-1], Problem(bad[-1].message, hint=hint)])


def _records(registry: Registry, manifest: Manifest, record: type[Record]) -> Iterator[Record]:
    for data in manifest.data:
        yield from record.from_table(record.conform(registry.store.read_table(data.sha256)))
