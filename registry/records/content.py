"""Content ids: hashes of rows that do not depend on how the rows are stored.

A content id is a SHA-256 over the columns of the rows. It does not depend on chunking, on the Parquet writer, or on the
bytes behind a null. It is computed table by table, with one table in memory at a time, and can be continued where it stopped:
then the id of rows that were appended to others costs no more than hashing the new ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa

from registry.records.arrays import zero
from registry.records.record import Record
from registry.records.resumable_sha256 import ResumableSha256, available
from registry.records.schema import type_label

BATCH_ROWS = 8192
"""Rows that are processed together."""

_Streams = defaultdict[str, Any]
"""The hashed parts of a column and of its nested types: validity, lengths and values. They are hashed separately, so that
table boundaries do not matter."""


class ContentHash:
    """The content id of rows that arrive table by table.

    Args:
        schema: of all tables; names, types and order count.
        resumable: keep a `state`. Short tables take longer then.
    """

    def __init__(self, schema: pa.Schema, *, resumable: bool = False) -> None:
        self._schema = schema
        self._resumable = resumable and available()
        self._streams: _Streams = defaultdict(ResumableSha256 if self._resumable else hashlib.sha256)
        self._rows = 0

    @classmethod
    def resumed(cls, schema: pa.Schema, state: Mapping[str, Any], content_id: str) -> Self:
        """One that continues after rows with this content id, from the state that it had then.

        Raises:
            ValueError: it is not the state of these rows, or this machine cannot continue from one.
        """
        made = cls(schema, resumable=True)
        if not made._resumable:
            raise ValueError("there is no SHA-256 that can be continued")
        try:
            made._rows = int(state["rows"])
            made._streams.update({name: ResumableSha256.resumed(bytes.fromhex(of)) for name, of in state["streams"].items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a state of a content id") from error
        # A state with this id is the right one: another would be a collision of SHA-256.
        if made.content_id() != content_id:
            raise ValueError(f"not the state of the content id {content_id}")
        return made

    def update(self, table: pa.Table) -> None:
        """Append the rows of a table."""
        self._rows += table.num_rows
        for place, field in enumerate(self._schema):
            for chunk in table.column(field.name).chunks:
                _update(self._streams, str(place), chunk)

    def state(self) -> dict[str, Any] | None:
        """The state for `resumed`, to be stored as JSON: some 250 bytes a column. None if none is kept, or this machine cannot
        continue.
        """
        if not self._resumable:
            return None
        return {"rows": self._rows, "streams": {name: each.state().hex() for name, each in sorted(self._streams.items())}}

    def content_id(self) -> str:
        """Hex SHA-256 of all rows so far."""
        digest = hashlib.sha256(b"rows/2\n")
        for field in self._schema:
            digest.update(f"{field.name}\0{type_label(field.type, field.nullable)}\n".encode())
        digest.update(f"rows {self._rows}\n".encode())
        for stream in sorted(self._streams):
            digest.update(f"{stream} {self._streams[stream].hexdigest()}\n".encode())
        return digest.hexdigest()


def content_id(schema: pa.Schema, tables: Iterable[pa.Table]) -> str:
    """Hex SHA-256 of the rows of `tables` in order."""
    content = ContentHash(schema)
    for table in tables:
        content.update(table)
    return content.content_id()


def _update(streams: _Streams, place: str, array: pa.Array) -> None:
    kind = array.type
    if not len(array):
        return
    streams[f"{place} valid"].update(_plain(array.is_valid().cast(pa.uint8())) if array.null_count else b"\1" * len(array))
    if pa.types.is_struct(kind):
        for number, child in enumerate(array.flatten()):
            _update(streams, f"{place}.{number}", child)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        import pyarrow.compute as pc

        streams[f"{place} length"].update(_plain(pc.list_value_length(array).cast(pa.int64())))
        _update(streams, f"{place}.0", array.flatten())
    elif (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    ):
        large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
        raw = _filled(array if large else array.cast(pa.large_binary()))
        _, places, values = raw.buffers()
        offsets = np.frombuffer(places, dtype=np.int64)[raw.offset : raw.offset + len(raw) + 1]
        streams[f"{place} length"].update((offsets[1:] - offsets[:-1]).data)
        streams[f"{place} value"].update(memoryview(values or b"")[offsets[0] : offsets[-1]])
    elif pa.types.is_boolean(kind):
        streams[f"{place} value"].update(_plain(array.cast(pa.uint8())))
    elif pa.types.is_temporal(kind):
        streams[f"{place} value"].update(_plain(array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())))
    else:
        streams[f"{place} value"].update(_plain(array))


def _plain(numbers: pa.Array) -> memoryview:
    """The bytes of numbers of a fixed width. (`to_numpy` would import pandas.)"""
    filled, width = _filled(numbers), numbers.type.bit_width // 8
    return memoryview(filled.buffers()[1])[filled.offset * width : (filled.offset + len(filled)) * width]


def _filled(array: pa.Array) -> pa.Array:
    return array.fill_null(zero(array.type)) if array.null_count else array


def row_ids(table: pa.Table) -> Iterator[str]:
    """Hex SHA-256 of the fields of each row of any dataset. Exclusion lists identify rows by it.

    Fields without a value are ignored, also in nested records, so rows keep their ids when a record type gains an optional
    field. The column `row` is ignored, too.
    """
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield from map(id_of, batch.to_pylist())


def id_of(row: Mapping[str, Any]) -> str:
    """The same for one row, with its values as Arrow gives them."""
    fields = {name: value for name, value in row.items() if name != "row"}
    return hashlib.sha256(json.dumps(_without_nulls(fields), sort_keys=True, default=_text).encode()).hexdigest()


def _without_nulls(value: Any) -> Any:
    """A value without the fields that are None."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    # Not repr: its name for a time zone depends on the installed packages.
    return str(value.hex() if isinstance(value, bytes) else value.isoformat())


def row_id(row: Record) -> str:
    """The same for one row that is not stored yet."""
    return next(row_ids(type(row).to_table([row])))
