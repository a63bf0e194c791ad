"""Rows of a version in pages: all of them, those that a condition selects, or in the order of a column."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from engine.page.sessions import Reader
from registry import Manifest
from registry.errors import QueryError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SECONDS = 30.0
"""How long a condition may take."""

ROW = "row"
"""The row's number, as queries name it."""


@dataclass(frozen=True)
class Wanted:
    """Which rows, and in which order.

    Args:
        where: an SQL expression over the columns; empty: all rows.
        sort: a column; empty: by the rows' numbers.
        page: from 1.
        size: rows of a page.
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
    order: Sequence[int] | npt.NDArray[np.int64] = range(manifest.rows)
    if wanted.where or wanted.sort:
        order = _order(reader, manifest, wanted)
    pages = max(1, -(-len(order) // wanted.size))
    page = min(max(1, wanted.page), pages)
    numbers = [int(number) for number in order[(page - 1) * wanted.size : page * wanted.size]]
    found = records_at(reader, manifest, numbers)
    return RowsPage(tuple(Row(number, found[number]) for number in numbers), len(order), page, pages)


def records_at(reader: Reader, manifest: Manifest, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Rows by their numbers. Objects that were read lately are not read again."""
    stops = list(accumulate(part.rows for part in manifest.data))
    found: dict[int, dict[str, Any]] = {}
    for place, group in groupby(sorted(set(rows)), key=lambda row: bisect_right(stops, row)):
        wanted = list(group)
        part = manifest.data[place]
        table = reader.kept.table(reader.registry.store, part.sha256)
        first = stops[place] - part.rows
        found |= zip(wanted, table.take([row - first for row in wanted]).to_pylist(), strict=True)
    return found


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


def _order(reader: Reader, manifest: Manifest, wanted: Wanted) -> npt.NDArray[np.int64]:
    """The numbers of the rows that are wanted, in order; kept for the next page."""
    if wanted.sort and wanted.sort not in (*manifest.fields, ROW):
        raise QueryError(f"{manifest.ref} has no column {wanted.sort!r} to sort by")
    # A condition may name other views, so its answer holds for this state of the catalog only.
    key = (manifest.version_id, wanted.where, wanted.sort, wanted.descending, reader.session.state if wanted.where else None)
    return reader.kept.orders.get(key, lambda: _asked(reader, manifest, wanted))


def _asked(reader: Reader, manifest: Manifest, wanted: Wanted) -> npt.NDArray[np.int64]:
    query = f"select {ROW} from {quoted(str(manifest.ref))}"
    if wanted.where:
        query += f" where (\n{wanted.where}\n)"  # a comment at its end goes no further
    order = f"{quoted(wanted.sort)} {'desc' if wanted.descending else 'asc'} nulls last, " if wanted.sort else ""
    table = reader.session.arrow(f"{query} order by {order}{ROW}", timeout=SECONDS)
    return table.column(0).to_numpy()
