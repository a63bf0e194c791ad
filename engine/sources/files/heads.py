"""The first rows of files, without reading more of them than that takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice

from engine.sources.arrow_rows import one_by_one
from engine.sources.files.locations import SourceFile
from engine.sources.files.readers import read_file
from engine.sources.row import Row

HEAD_ROWS = 20
HEAD_BYTES = 1 << 20
"""Bytes of a source that are read to recognise its format, and by `engine check`."""


def head(files: Iterable[SourceFile], wanted: frozenset[str] | None, most: int, most_bytes: int = HEAD_BYTES) -> Iterator[Row]:
    """The first rows of files: as many as fit into `most_bytes`, but at least one and at most `most`.

    Args:
        files: are read one after another.
        wanted: the columns (None: all).
        most: rows.
        most_bytes: the maximum size of all rows together.

    Raises:
        EngineError: a file cannot be read.
    """
    size = 0
    for row in islice((row for file in files for row in _first(file, wanted, most_bytes)), most):
        yield row
        if (size := size + row.size) > most_bytes:
            return


def _first(file: SourceFile, wanted: frozenset[str] | None, most_bytes: int) -> Iterator[Row]:
    """The rows of a file, from its start; of a long JSON document perhaps not all, because it would have to be read whole."""
    if file.format == "json":
        with file.reading(), file.open() as content:
            start = content.read(most_bytes)
            whole = not content.read(1)
        found = [] if whole else [*_whole_objects(start.decode("utf-8-sig", errors="ignore"))]
        if found:
            size = len(start) // len(found)
            yield from (Row(file.name, {**file.partition, **fields}, size=size) for fields in found)
            return
    yield from one_by_one(read_file(file, wanted))


def _whole_objects(text: str) -> Iterator[dict[str, object]]:
    """The objects at the beginning of a JSON document, a list of them or a mapping of ids to them, as far as they are whole."""
    parse = json.JSONDecoder().raw_decode
    place, named = _after(text, 0), text.lstrip()[:1] == "{"
    try:
        while True:
            key = None
            place = _after(text, place + 1)
            if named:
                key, place = parse(text, place)
                place = _after(text, _after(text, place) + 1)
            value, place = parse(text, place)
            if isinstance(value, dict):
                yield {"id": key, **value} if named else value
            place = _after(text, place)
            if text[place : place + 1] != ",":
                return
    except (ValueError, RecursionError):  # the rest is not there, or not JSON, which reading it all says better
        return


def _after(text: str, place: int) -> int:
    """The place of the next character that is not a blank."""
    while text[place : place + 1].isspace():
        place += 1
    return place
