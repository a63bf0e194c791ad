"""Images that rows refer to: written as files, whose names take the place of the references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from engine.operator.images import REFERENCE, image_kind, referenced_image
from registry import ObjectStore

FOLDER = "images"


def with_files(tables: Iterable[pa.Table], store: ObjectStore, folder: Path) -> Iterator[pa.Table]:
    """The tables, with the name of a file below `folder` for each reference to an image, in texts and lists of texts.

    Raises:
        CorruptError: an image is damaged or missing.
    """
    for table in tables:
        for place, column in enumerate(table.schema):
            if _has_references(table.column(place)):
                named = [_named(value, store, folder) for value in table.column(place).to_pylist()]
                table = table.set_column(place, column, pa.chunked_array([named], column.type))  # noqa: PLW2901
        yield table


def _has_references(column: pa.ChunkedArray) -> bool:
    if pa.types.is_list(column.type):
        column = pc.list_flatten(column)
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return bool(text and pc.any(pc.starts_with(column, pattern=REFERENCE)).as_py())


def _named(value: str | list[str] | None, store: ObjectStore, folder: Path) -> str | list[str] | None:
    if isinstance(value, list):
        return [each and _name(each, store, folder) for each in value]
    return value and _name(value, store, folder)


def _name(text: str, store: ObjectStore, folder: Path) -> str:
    sha256 = referenced_image(text)
    if sha256 is None:
        return text
    content = store.read_bytes(sha256)
    name = f"{FOLDER}/{sha256}.{image_kind(content, text)}"
    file = folder / name
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    return name
