"""Checks that the objects of a version agree with its manifest: rows, content id, and row numbers of parents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np
import pyarrow as pa

from registry.catalog.manifest import Manifest, SideObject
from registry.counted import counted
from registry.errors import CorruptError
from registry.records.content import content_id
from registry.storage.objects import ObjectStore


def disproof(store: ObjectStore, manifest: Manifest, sizes: Mapping[tuple[str, int], int]) -> Iterator[str]:
    """Read all rows of a version and of its side objects, with every checksum verified; yield what is wrong with them.

    Args:
        sizes: the number of rows of each existing version, by name and number.
    """
    try:
        yield from _of_rows(store, manifest)
        for each in manifest.side:
            yield from _of_side(store, manifest, each, sizes)
    except (CorruptError, KeyError) as error:
        yield f"cannot be read: {error}"


def _of_rows(store: ObjectStore, manifest: Manifest) -> Iterator[str]:
    wrong: list[str] = []

    def tables() -> Iterator[pa.Table]:
        for each in manifest.data:
            table = store.read_table(each.sha256)
            if table.num_rows != each.rows:
                wrong.append(f"object {each.sha256} has {counted(table.num_rows, 'row')}, but should have {each.rows:,}")
            yield table

    rows = tables()
    for first in rows:
        if content_id(first.schema, chain([first], rows)) != manifest.content_id:
            wrong.append("its rows do not have its content id")
    yield from wrong


def _of_side(store: ObjectStore, manifest: Manifest, each: SideObject, sizes: Mapping[tuple[str, int], int]) -> Iterator[str]:
    """Invalid row numbers. Those of a source may be any, because its rejects are numbered as in its files."""
    table = store.read_table(each.sha256)
    what = f"{each.kind} object {each.sha256}"
    if table.num_rows != each.rows:
        yield f"{what} has {counted(table.num_rows, 'row')}, but should have {each.rows:,}"
    own = {"lineage": "child_row", "calls": "local_row"}.get(each.kind)
    if own and _beyond(table[own], manifest.rows - each.base):
        yield f"{what} names rows that the version does not have"
    if each.kind == "calls" or not manifest.inputs:
        return
    places = table["input"].to_numpy()
    if _beyond(table["input"], len(manifest.inputs)):
        yield f"{what} names inputs that the version does not have"
        return
    for place, ref in enumerate(manifest.inputs):
        parent_rows = table["parent_row"].filter(pa.array(places == place))
        if _beyond(parent_rows, sizes.get((ref.name, ref.version), np.iinfo(np.int64).max)):
            yield f"{what} names rows that {ref} does not have"


def _beyond(numbers: pa.ChunkedArray, size: int) -> bool:
    """Whether any number is not in 0 to size - 1."""
    known = numbers.drop_null().to_numpy()
    return bool(len(known) and (known.min() < 0 or known.max() >= size))
