"""Rows of a version in pages: all of them, those that a condition selects, or in the order of a column."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import numpy as np

from engine.page.sessions import Reader
from registry import Manifest
from registry.errors import QueryError
from registry.records.arrays import int64_array, numbers_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from engine.page.facts.datasets.text_order import TextOrder

    Numbers = npt.NDArray[np.int64]

K = TypeVar("K")
V = TypeVar("V")

SECONDS = 30.0
"""How long a condition may take."""

_FIRST = 2000
"""Rows at the start of an order that are looked up without ordering the others."""

LARGE = 100_000
"""Rows of a version that takes long to order, to filter and to compare."""

_READERS = 4
"""Objects that are read at a time, when the rows of a page are in several."""

ROW = "row"
"""The row's number, as queries name it."""


@dataclass(frozen=True)
class Wanted:
    """Which rows, and in which order.

    Args:
        where: an SQL expression over the columns; empty: all rows.
        sort: a column; empty: by the rows' numbers.
        page: from 1.
        size: rows per page.
    """

    where: str = ""
    sort: str = ""
    descending: bool = False
    page: int = 1
    size: int = 50


@dataclass(frozen=True)
class Row:
    """A row and its number."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class RowsPage:
    """A page of rows; `matching` rows fulfil the condition."""

    rows: tuple[Row, ...]
    matching: int
    page: int
    pages: int


def rows_page(reader: Reader, manifest: Manifest, wanted: Wanted) -> RowsPage:
    """A page of a version's rows. A page past the end is the last one.

    Raises:
        QueryError: the condition or the column is wrong.
    """
    matching = _matching(reader, manifest, wanted)
    pages = max(1, -(-len(matching) // wanted.size))
    page = min(max(1, wanted.page), pages)
    start, stop = (page - 1) * wanted.size, page * wanted.size
    numbers = [int(number) for number in _placed(reader, manifest, wanted, matching, start, stop)]
    found = records_at(reader, manifest, numbers)
    return RowsPage(tuple(Row(number, found[number]) for number in numbers), len(matching), page, pages)


def records_at(reader: Reader, manifest: Manifest, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Rows by their numbers. Rows that were read recently are not read again."""
    names = column_names(reader, manifest)
    stops = list(accumulate(part.rows for part in manifest.data))
    places = {place: list(group) for place, group in groupby(sorted(set(rows)), key=lambda row: bisect_right(stops, row))}

    def read(place: int) -> pa.Table:
        first = stops[place] - manifest.data[place].rows
        table = reader.kept.table(reader.registry.store, manifest.data[place].sha256, names)
        return table.take(int64_array(np.array(places[place]) - first))

    return {
        row: values
        for wanted, table in zip(places.values(), _at_once(read, places), strict=True)
        for row, values in zip(wanted, table.to_pylist(), strict=True)
    }


def _at_once(read: Callable[[K], V], of: Iterable[K]) -> list[V]:
    """The results of reading each, several at a time."""
    if len(every := list(of)) < 2:
        return list(map(read, every))
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, every))


def prepare(reader: Reader, manifest: Manifest) -> None:
    """Read the rows of a large version in the background, unless they would come over a network."""
    if manifest.rows >= LARGE and not reader.registry.url:
        objects = [part.sha256 for part in manifest.data]
        reader.kept.prepare(reader.registry.store, objects, column_names(reader, manifest))


def column_names(reader: Reader, manifest: Manifest) -> tuple[str, ...]:
    """The columns in their order. A manifest names them too, but by alphabet."""

    def read() -> tuple[str, ...]:
        import pyarrow.parquet as pq

        if not manifest.data:
            return tuple(manifest.fields)
        return tuple(pq.ParquetFile(reader.registry.store.open(manifest.data[0].sha256)).schema_arrow.names)

    found: tuple[str, ...] = reader.kept.facts.get(("columns", manifest.version_id), read)
    return found


def value_at(record: Any, path: str) -> Any:
    """A value within a row, by the path that `engine.page.rendering.values` gives it; raises KeyError if there is none."""
    value = record
    for part in map(unquote, path.split("/")):
        try:
            if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].keys() == {"key", "value"}:
                value = {item["key"]: item["value"] for item in value}[part]
            else:
                value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(path) from None
    return value


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"{}"'.format(name.replace('"', '""'))


def _matching(reader: Reader, manifest: Manifest, wanted: Wanted) -> Sequence[int] | Numbers:
    """The numbers of the rows that fulfil the condition, in the order of the version."""
    if not wanted.where:
        return range(manifest.rows)
    # A condition may name other views, so its answer holds for this state of the catalog only.
    key = (manifest.version_id, wanted.where, reader.session.state)
    found: Numbers = reader.kept.orders.get(key, lambda: _asked(reader, _query(manifest, wanted), manifest, wanted))
    return found


def _placed(
    reader: Reader, manifest: Manifest, wanted: Wanted, matching: Sequence[int] | Numbers, start: int, stop: int
) -> Sequence[int] | Numbers:
    """The numbers of the rows that have the places `start` to `stop` among those that match."""
    if not wanted.sort:
        return matching[start:stop]
    if wanted.sort not in (*manifest.fields, ROW):
        raise QueryError(f"{manifest.ref} has no column {wanted.sort!r} to sort by")
    is_text = wanted.sort != ROW and manifest.fields[wanted.sort].rstrip("?") == "str"
    if is_text and len(matching) and (texts := _texts(reader, manifest, wanted.sort)):
        return texts.between(np.asarray(matching, np.int64), start, stop, descending=wanted.descending)
    return _order(reader, manifest, wanted, stop)[start:stop]


def _texts(reader: Reader, manifest: Manifest, name: str) -> TextOrder | None:
    """The texts of a column; None if they are stored as something else, such as dictionaries."""
    import pyarrow as pa

    from engine.page.facts.datasets.text_order import TextOrder

    def read(sha256: str) -> list[pa.Array]:
        chunks: list[pa.Array] = reader.kept.table(reader.registry.store, sha256, [name]).column(0).chunks
        return chunks

    chunks = [chunk for found in _at_once(read, [part.sha256 for part in manifest.data]) for chunk in found]
    if {chunk.type for chunk in chunks} not in ({pa.string()}, {pa.large_string()}):
        return None
    texts = TextOrder(chunks)
    return replace(texts, kept=reader.kept.orders.get((manifest.version_id, "keys", name), texts.first_keys))


def _order(reader: Reader, manifest: Manifest, wanted: Wanted, stop: int) -> Numbers:
    """The numbers of the rows that are wanted in order of a column, at least as far as `stop`."""
    key: tuple[Any, ...] = (
        manifest.version_id,
        wanted.where,
        wanted.sort,
        wanted.descending,
        reader.session.state if wanted.where else None,
    )
    query = (
        f"{_query(manifest, wanted)} order by {quoted(wanted.sort)} {'desc' if wanted.descending else 'asc'} nulls last, {ROW}"
    )
    if stop <= _FIRST:
        # Finding the first rows takes a fraction of the time of sorting all of them.
        key, query = (*key, _FIRST), f"{query} limit {_FIRST}"
    found: Numbers = reader.kept.orders.get(key, lambda: _asked(reader, query, manifest, wanted))
    return found


def _query(manifest: Manifest, wanted: Wanted) -> str:
    query = f"select {ROW} from {quoted(str(manifest.ref))}"
    # In brackets and on its own lines, so that a comment at its end does not affect the rest.
    return f"{query} where (\n{wanted.where}\n)" if wanted.where else query


def _asked(reader: Reader, query: str, manifest: Manifest, wanted: Wanted) -> Numbers:
    try:
        table = reader.session.arrow(query, timeout=SECONDS)
    except QueryError:
        if wanted.where:  # the message is clearer without the brackets
            start = f"select {ROW} from {quoted(str(manifest.ref))}"
            reader.session.ask(f"explain {start} where {wanted.where}", timeout=SECONDS)
        raise
    return numbers_of(table.column(0))
