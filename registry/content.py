"""Content ids: what rows say, whatever files they are in.

A content id is a SHA-256 over the columns of the rows in fixed batches. It does not depend on how the rows were
chunked, on the Parquet writer, or on the bytes that stand behind a null.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BATCH_ROWS = 8192
"""Rows hashed together. Part of the definition: another value gives other ids."""


def content_id(schema: pa.Schema, tables: Iterable[pa.Table]) -> str:
    """Hex SHA-256 of the rows of `tables` laid end to end, all of `schema` (names, types and order count)."""
    digest = hashlib.sha256(b"rows/1\n")
    for field in schema:
        digest.update(f"{field.name}\0{field.type}\0{field.nullable}\n".encode())
    rows = 0
    for batch in _fixed_batches(tables):
        rows += batch.num_rows
        digest.update(f"batch {batch.num_rows}\n".encode())
        for field in schema:
            _update(digest, batch.column(field.name).combine_chunks())
    digest.update(f"rows {rows}\n".encode())
    return digest.hexdigest()


def _fixed_batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count < BATCH_ROWS:
            continue
        joined = pa.concat_tables(waiting)
        full = count - count % BATCH_ROWS
        for start in range(0, full, BATCH_ROWS):
            yield joined.slice(start, BATCH_ROWS)
        waiting, count = [joined.slice(full)], count - full
    if count:
        yield pa.concat_tables(waiting)


def _update(digest: hashlib._Hash, array: pa.Array | pa.ChunkedArray) -> None:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    digest.update(f"{array.type} {len(array)}\n".encode())
    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    kind = array.type
    if pa.types.is_struct(kind):
        for child in array.flatten():
            _update(digest, child)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        digest.update(_numbers(pc.list_value_length(array).cast(pa.int64())))
        _update(digest, array.flatten())
    elif (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    ):
        raw = array.cast(pa.large_binary()).fill_null(b"")
        digest.update(_numbers(pc.binary_length(raw)))
        offsets = np.frombuffer(raw.buffers()[1], dtype=np.int64)[raw.offset : raw.offset + len(raw) + 1]
        if len(raw):
            digest.update(memoryview(raw.buffers()[2] or b"")[offsets[0] : offsets[-1]])
    elif pa.types.is_boolean(kind):
        digest.update(np.packbits(array.fill_null(False).to_numpy(zero_copy_only=False)).tobytes())
    elif pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        digest.update(_numbers(array.cast(width)))
    else:
        digest.update(_numbers(array))


def _numbers(array: pa.Array) -> bytes:
    return bytes(array.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
