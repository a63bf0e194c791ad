"""Versions made from tables, without a pipeline."""

from __future__ import annotations

import uuid
from typing import Any

import pyarrow as pa

from registry import DataObject, Draft, Manifest, Registry
from registry.records.content import content_id
from registry.records.schema import fields_of


def store(registry: Registry, name: str, rows: pa.Table | list[dict[str, Any]], *, part: int = 1000) -> Manifest:
    """Make rows the next version of a name, in objects of `part` rows."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    table = table.cast(pa.schema([field.with_type(_stored(field.type)) for field in table.schema]))
    data = []
    for start in range(0, max(1, table.num_rows), part):
        piece = table.slice(start, part)
        stored = registry.store.put_table(piece)
        data.append(DataObject(sha256=stored.sha256, rows=piece.num_rows, bytes=stored.bytes))
    key = registry.store.put_bytes(b'{"source": {}}')
    draft = Draft(
        name=name,
        kind="dataset",
        type="Anything",
        fields=fields_of(table.schema),
        content_id=content_id(table.schema, [table]),
        pipeline="made",
        step="rows",
        op="source",
        output="out",
        step_key=uuid.uuid4().hex,
        key_object=DataObject(sha256=key.sha256, rows=0, bytes=key.bytes),
        data=tuple(data),
    )
    run = registry.catalog.begin_run("made", {})
    [made] = registry.catalog.commit([draft], run, None)
    registry.catalog.end_run(run, "succeeded", refs={made.name: made.version})
    return made


def _stored(kind: pa.DataType) -> pa.DataType:
    """A type as the registry stores it: its texts may exceed 2 GB in total."""
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_list(kind):
        return pa.list_(_stored(kind.value_type))
    return pa.struct([field.with_type(_stored(field.type)) for field in kind]) if pa.types.is_struct(kind) else kind
