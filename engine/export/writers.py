"""Writes rows as files for other tools: JSON Lines, Parquet, and the Arrow files of Hugging Face datasets.

Rows are read and written an object at a time, so a dataset may be larger than memory.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from registry.records.columns import DICT

SHARD_BYTES = 512 << 20
"""The size in memory at which the next file begins."""
GROUP_BYTES = 32 << 20
"""The size of rows written together: objects can be tiny, and each group costs readers time."""

SPLIT = "train"
"""The only split of an export; Hugging Face datasets consist of splits."""


def write_jsonl(file: Path, tables: Iterable[pa.Table]) -> None:
    """One JSON object per line, UTF-8. Dicts are objects, times are ISO 8601 in UTC, bytes are base64. JSON has neither NaN
    nor infinities, so they become the texts `NaN`, `Infinity` and `-Infinity`.
    """
    with file.open("w", encoding="utf-8", newline="\n") as out:
        for table in tables:
            form = _json_object(table.schema)
            for batch in table.to_batches(max_chunksize=1024):
                out.writelines(json.dumps(form(row), ensure_ascii=False, allow_nan=False) + "\n" for row in batch.to_pylist())


def write_parquet(folder: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> list[Path]:
    """Parquet files `train-00000-of-00002.parquet` with checksums of their pages."""
    import pyarrow.parquet as pq

    return _write_shards(
        folder,
        f"{SPLIT}-{{}}.parquet",
        lambda path: pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True),
        tables,
    )


def write_arrow(folder: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> list[Path]:
    """Arrow streams `data-00000-of-00002.arrow`, which Hugging Face datasets map into memory directly."""
    # Hugging Face cannot open a file without batches.
    nothing = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)

    def create(path: Path) -> Any:
        writer = pa.ipc.new_stream(str(path), schema)
        writer.write_batch(nothing)
        return writer

    return _write_shards(folder, "data-{}.arrow", create, tables)


def _write_shards(folder: Path, name: str, create: Callable[[Path], Any], tables: Iterable[pa.Table]) -> list[Path]:
    folder.mkdir(parents=True)
    written: list[Path] = []
    size = SHARD_BYTES
    with ExitStack() as open_files:
        for table in _grouped(tables):
            if size >= SHARD_BYTES:
                open_files.close()
                written.append(folder / f"{len(written)}.part")
                writer = open_files.enter_context(create(written[-1]))
                size = 0
            writer.write_table(table)
            size += table.nbytes
    return [part.rename(folder / name.format(f"{n:05d}-of-{len(written):05d}")) for n, part in enumerate(written)]


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting, size = [], 0
    for table in tables:
        waiting.append(table)
        size += table.nbytes
        if size >= GROUP_BYTES:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


# -- JSON -------------------------------------------------------------------------------------------------------------

_Form = Callable[[Any], Any]


def _json_object(fields: Iterable[pa.Field]) -> _Form:
    forms = {field.name: form for field in fields if (form := _json_form(field.type))}

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        return {name: forms[name](value) if name in forms and value is not None else value for name, value in row.items()}

    return convert


def _json_form(kind: pa.DataType) -> _Form | None:
    """How values of an Arrow type become JSON; None: unchanged."""
    if pa.types.is_struct(kind):
        return _json_object(kind)
    if pa.types.is_list(kind):
        if kind.value_field.metadata == DICT:
            form = _json_object(kind.value_type)
            return lambda entries: {entry["key"]: entry["value"] for entry in map(form, entries)}
        item = _json_form(kind.value_type)
        return item and (lambda values: [None if value is None else item(value) for value in values])
    if pa.types.is_floating(kind):
        return _finite
    if pa.types.is_large_binary(kind):
        return lambda value: base64.b64encode(value).decode("ascii")
    if pa.types.is_temporal(kind):
        return lambda value: value.isoformat()
    return None


def _finite(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
