"""Reads the rows of files: JSON Lines, JSON, CSV, Parquet.

A JSON file is a list of rows, or one object that maps ids to rows: a row without a field `id` then gets its key as `id`.
Folders named `key=value` add that field to their rows, unless the file has it.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from engine.errors import EngineError
from engine.sources.arrow_rows import ArrowRows
from engine.sources.coercion import Number
from engine.sources.files.locations import SourceFile
from engine.sources.row import MAX_ROW_BYTES, Row

if TYPE_CHECKING:
    pass

MAX_DOCUMENT_BYTES = 512 << 20
"""The maximum size of a JSON file, in bytes. Such a file is read whole; JSON Lines has no such limit."""

DELIMITERS = {"csv": ",;\t|", "tsv": "\t"}


def read_file(file: SourceFile, wanted: frozenset[str] | None) -> Iterator[Row | ArrowRows]:
    """The rows of a file.

    Args:
        file: the file.
        wanted: the columns to read, while others may be omitted; None for all.

    Raises:
        EngineError: the file as a whole cannot be read.
    """
    with file.reading():
        for rows in _READERS[file.format or "jsonl"](file, wanted):
            if isinstance(rows, ArrowRows) and file.partition:
                yield from (_in_partition(row, file) for row in rows)
            else:
                yield rows if isinstance(rows, ArrowRows) else _in_partition(rows, file)


def _in_partition(row: Row, file: SourceFile) -> Row:
    """The row with the fields that the folders of its file have."""
    return replace(row, fields={**file.partition, **row.fields}) if file.partition and row.fields is not None else row


def json_lines_after(file: SourceFile, offset: int, number: int) -> Iterator[Row]:
    """The rows of a JSON Lines file after its first `number` lines, which have `offset` bytes; the file `is_plain`.

    Raises:
        EngineError: the file cannot be read.
    """
    with file.reading():
        for row in _json_lines(file, None, offset, number):
            yield _in_partition(row, file)


def _json_lines(file: SourceFile, wanted: frozenset[str] | None, offset: int = 0, number: int = 0) -> Iterator[Row]:
    with file.open() as lines:
        if offset:
            lines.seek(offset)
        while line := lines.readline(MAX_ROW_BYTES + 1):
            number += 1
            where = f"{file.name}:{number}"
            if len(line) > MAX_ROW_BYTES:
                yield Row(where, error=f"the row has more than {MAX_ROW_BYTES >> 20} MiB")
                while line and not line.endswith(b"\n"):
                    line = lines.readline(MAX_ROW_BYTES)
                continue
            if not line.strip():
                continue
            try:
                value = load_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                yield _json_row(where, value, len(line), halves=bool(_HALF.search(line)))
            except UnicodeDecodeError as error:
                yield Row(where, error=f"not UTF-8 at byte {error.start + 1} of the row; save the file as UTF-8")
            except RecursionError:
                yield Row(where, error=f"not JSON that can be parsed: {_DEEP}")
            except ValueError as error:
                yield Row(where, error=f"not JSON: {error}")


_DEEP = "it is nested too deeply"


def load_json(text: str) -> Any:
    """Parse JSON. NaN and infinities, which the standard does not have, and duplicate keys are errors.

    Fractions become `Number`s, which keep their text.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    return json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant, parse_float=Number, parse_int=_int)


def _int(digits: str) -> int:
    if len(digits) > 4000:  # Python's own error has advice that users cannot follow
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object has a duplicate key: {key!r:.60}")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""How a surrogate is written; UTF-8 itself cannot contain one. (A whole pair matches twice.)"""


def _json_row(where: str, value: Any, size: int, *, halves: bool) -> Row:
    if not isinstance(value, dict):
        return Row(where, error=f"a row must be a JSON object, but this is {_json_kind(value)}")
    try:
        if halves:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Row(where, error="it contains an unpaired surrogate (\\ud800 to \\udfff), which is not a character")
    return Row(where, value, size=size)


def _json_document(file: SourceFile, wanted: frozenset[str] | None) -> Iterator[Row]:
    raw = bytearray()
    with file.open() as content:
        while part := content.read(1 << 20):
            raw += part
            if len(raw) > MAX_DOCUMENT_BYTES:
                most = f"{MAX_DOCUMENT_BYTES >> 20} MiB"
                raise EngineError(
                    f"{file.name}: a JSON file may have at most {most}; use JSON Lines (one object per line, .jsonl)"
                )
    name = file.name
    try:
        document = load_json(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise EngineError(f"{name}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from error
    except RecursionError:
        raise EngineError(f"{name}: not JSON that can be parsed: {_DEEP}") from None
    except ValueError as error:
        raise EngineError(
            f"{name}: not JSON: {error}. (If it has one object per line, it is JSON Lines: name it .jsonl)"
        ) from error
    halves = bool(_HALF.search(raw))
    if not isinstance(document, list | dict):
        raise EngineError(f"{name}: {_DOCUMENT}; this is {_json_kind(document)}")
    size = len(raw) // max(1, len(document))
    if isinstance(document, list):
        for number, value in enumerate(document):
            yield _json_row(f"{name} row {number + 1}", value, size, halves=halves)
        return
    for key, value in document.items():
        if not isinstance(value, dict):
            raise EngineError(f"{name}: {_DOCUMENT}; this is an object in which {key!r:.60} is {_json_kind(value)}")
    for number, (key, value) in enumerate(document.items()):
        yield _json_row(f"{name} row {number + 1} ({key!r:.60})", {"id": key, **value}, size, halves=halves)


def _json_kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


_DOCUMENT = "a JSON file must contain a list of objects, or one object that maps ids to objects"


_SURPLUS, _MISSING = "\0surplus", "\0missing"
"""How the CSV reader marks cells beyond the header, and cells that a short row lacks."""


def _csv(file: SourceFile, wanted: frozenset[str] | None) -> Iterator[Row]:
    name = file.name
    with file.open() as content:
        csv.field_size_limit(MAX_ROW_BYTES)
        lines = _Lines(content, name)
        header = next(lines, "")
        delimiter = _delimiter(header, DELIMITERS[file.format or "csv"], wanted)
        reader = csv.DictReader(lines.again(header), restkey=_SURPLUS, restval=_MISSING, delimiter=delimiter)
        while True:
            lines.bytes_of_row = 0
            try:
                if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
                    raise EngineError(f"{name}: the header has a duplicate column")
                fields = next(reader, None)
            except UnicodeDecodeError as error:
                raise EngineError(f"{name}: not UTF-8 after line {reader.line_num}; save the file as UTF-8") from error
            except csv.Error as error:
                raise EngineError(f"{name}:{reader.line_num}: not CSV: {error}") from error
            if fields is None:
                return
            where = f"{name}:{reader.line_num}"
            if _SURPLUS in fields or _MISSING in fields.values():
                more = "more" if _SURPLUS in fields else "fewer"
                why = f"the row has {more} cells than the header; put text with {delimiter!r} in double quotes"
                yield Row(where, error=why)
                continue
            # An empty cell is a missing value: the field gets its default, or is reported as missing.
            present = {key: value for key, value in fields.items() if value != ""}
            yield Row(where, present, size=lines.bytes_of_row)


class _Lines(Iterator[str]):
    """The lines of a CSV file; a row that exceeds the limit, in one line or several, is an error."""

    def __init__(self, content: IO[bytes], name: str) -> None:
        self.content = content
        self.name = name
        self.first = True
        self.waiting: list[str] = []
        self.bytes_of_row = 0

    def __next__(self) -> str:
        if self.waiting:
            return self.waiting.pop()
        line = self.content.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self.bytes_of_row += len(line)
        if self.bytes_of_row > MAX_ROW_BYTES:
            raise EngineError(f"{self.name}: a row has more than {MAX_ROW_BYTES >> 20} MiB; is a double quote not closed?")
        encoding, self.first = "utf-8-sig" if self.first else "utf-8", False
        return line.decode(encoding)

    def again(self, line: str) -> _Lines:
        """Put a line back, so that it is the next one."""
        self.waiting += [line] if line else []
        return self


def _delimiter(header: str, possible: str, wanted: frozenset[str] | None) -> str:
    """The first delimiter with which the header has the most wanted columns."""

    def columns(delimiter: str) -> int:
        found = set(next(csv.reader([header], delimiter=delimiter), ()))
        return len(found if wanted is None else wanted & found)

    return max(possible, key=columns)


def _parquet(file: SourceFile, wanted: frozenset[str] | None) -> Iterator[ArrowRows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open(seekable=True) as content, pq.ParquetFile(content) as parquet:
            names = parquet.schema_arrow.names
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise EngineError(f"{file.name}: the file has a duplicate column {twice[0]!r}")
            columns = [name for name in names if wanted is None or name in wanted]
            first = 1
            for batch in parquet.iter_batches(batch_size=1024, columns=columns):
                yield ArrowRows(batch, file.name, first, frozenset(names) - {*columns})
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise EngineError(f"{file.name}: not a readable Parquet file: {error}") from error


_READERS: dict[str, Callable[[SourceFile, frozenset[str] | None], Iterator[Row | ArrowRows]]] = {
    "jsonl": _json_lines,
    "json": _json_document,
    "csv": _csv,
    "tsv": _csv,
    "parquet": _parquet,
}
