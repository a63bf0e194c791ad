"""Files that grew: the rows that were added are read, and the version continues with the objects of the one before.

It applies to JSON Lines files on this machine whose last one begins with all its earlier bytes (their hash is compared), while
nothing else of the source changed, no row was rejected and no field has images. The result is the same as that of reading
everything: the content id continues from its stored state (see ContentHash.resumed), and the last objects are divided again
together with the new rows, because their boundaries may depend on what follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.sources.files.locations import SourceFile, find_files
from engine.sources.files.readers import json_lines_after
from engine.sources.row import Row
from engine.spec.pipeline_spec import DatasetSpec
from registry import DataObject, Manifest, ObjectStore, Record
from registry.errors import CorruptError
from registry.records.boundaries import changeable_objects
from registry.records.content import ContentHash

_READ = 1 << 20


@dataclass(frozen=True)
class Reached:
    """Where reading a source ended, for the next version; stored beside its key document.

    Attributes:
        bytes: the size of its last file.
        rows: the number of rows that were read.
        columns, ignored: the columns that rows had, and the fields that the type does not have, with their numbers of rows.
        content: the state of the content id.
    """

    bytes: int
    rows: int
    columns: list[str]
    ignored: dict[str, int]
    content: dict[str, Any]


@dataclass(frozen=True)
class Continued:
    """What a version takes from the one before, and the rows that are left to read.

    Attributes:
        kept: the objects that stay.
        last: the rows after them.
        content: the content id so far.
        added: the rows that the file gained.
        reached: the place where the previous version ended.
    """

    kept: tuple[DataObject, ...]
    last: tuple[pa.Table, ...]
    content: ContentHash
    added: Iterator[Row]
    reached: Reached


def last_file(spec: DatasetSpec, base_dir: Path) -> SourceFile | None:
    """The file that can grow; None if the source has none."""
    files = find_files(spec.path, base_dir) if spec.path and not spec.images else []
    can = files and files[-1].is_plain and files[-1].format in (None, "jsonl") and spec.limit is None
    return files[-1] if can else None


def continued(
    spec: DatasetSpec, record: type[Record], base_dir: Path, identity: Mapping[str, Any], before: Manifest, store: ObjectStore
) -> Continued | None:
    """How a source continues the version `before`; None if it has to be read from its start.

    Args:
        identity: the values that determine the source's rows now.
        before: a version of the source, all of whose objects exist.
    """
    file = last_file(spec, base_dir)
    if file is None or before.side:
        return None
    try:
        document = store.read_document(before.key_object.sha256)
        reached = Reached(**document["reached"])
        lines = _lines_before(file, reached.bytes, document["source"], identity)
        if not lines:
            return None
        content = ContentHash.resumed(record.arrow_schema(), reached.content, before.content_id)
        final = final_objects(before.data)
        last = tuple(record.conform(store.read_table(part.sha256)) for part in before.data[final:])
    except (CorruptError, KeyError, TypeError, ValueError, OSError):
        return None  # whatever is wrong with the version before, the file still has all rows
    return Continued(before.data[:final], last, content, json_lines_after(file, reached.bytes, lines), reached)


def final_objects(data: Sequence[DataObject]) -> int:
    """How many of a version's objects stay the same whatever rows follow."""
    if len(data) < 2:
        return 0
    before, last = ((part.rows, part.memory) for part in data[-2:])
    return len(data) - changeable_objects(last, before)


def _lines_before(file: SourceFile, size: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """The number of lines among the first `size` bytes of a file if these are the source of the version before; otherwise 0."""
    *others, (form, digest, *partition) = before["origin"]["files"]
    expected = {**now, "origin": {"files": [*others, [form, now["origin"]["files"][-1][1], *partition]]}}
    if now != expected or {**before, "origin": None} != {**now, "origin": None}:
        return 0
    found, lines, last = hashlib.sha256(), 0, b""
    with open(file.path, "rb") as content:
        while size and (part := content.read(min(size, _READ))):
            found.update(part)
            lines, last, size = lines + part.count(b"\n"), part[-1:], size - len(part)
    return lines if not size and last == b"\n" and found.hexdigest() == digest else 0
