"""Which rows are in a bundle: as many of the first rows of each version as there is room for.

A row is in a bundle with its own page, its place in the lists of rows, and every value that these pages do not show whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.page.bundle.contents import Contents, size_of
from engine.page.bundle.file_links import ADDRESSES
from engine.page.bundle.rendered import Page, Pages
from engine.page.facts.datasets.rows import ROW
from engine.page.routes.datasets import LOOKS
from registry import Manifest

SIZE = 50
"""Rows of a page of a list."""


@dataclass
class _Rows:
    """The rows of a version; `taken` of them are in the bundle, `reserved` bytes are kept for their lists.

    `shown` are pages of the lists, as they are if all rows are taken that are wanted.
    """

    manifest: Manifest
    most: int
    taken: int = 0
    reserved: int = 0
    shown: list[Page] = field(default_factory=list)


def add_rows(
    pages: Pages, contents: Contents, manifests: Sequence[Manifest], most: int | None, advanced: Callable[[int, int], None]
) -> dict[str, int]:
    """Add rows of datasets, and lists of these rows; returns how many of each, by `NAME@V`.

    There has to be room for lists without rows, because the first page of a list is there even if none of its rows is.

    Args:
        most: the maximum rows of a version; None: as many as there is room for.
        advanced: called with the number of rows that have been added, and of those requested.
    """
    all_rows = [_Rows(each, each.rows if most is None else min(most, each.rows)) for each in manifests]
    for each in all_rows:
        for page in lists(pages, each.manifest, 0):
            each.reserved += size_of(page)
            contents.add_static(page)
    open_ones = list(all_rows)
    while open_ones:  # in turn, so that a large version leaves room for the others
        for each in list(open_ones):
            if not _more(pages, contents, each, sum(other.reserved for other in all_rows)):
                open_ones.remove(each)
            advanced(sum(other.taken for other in all_rows), sum(other.most for other in all_rows))
    for each in all_rows:
        contents.add(each.shown if each.taken == each.most and each.shown else lists(pages, each.manifest, each.taken))
    for each in all_rows:
        _add_orders(pages, contents, each)
    return {str(each.manifest.ref): each.taken for each in all_rows}


def lists(pages: Pages, manifest: Manifest, rows: int) -> list[Page]:
    """All pages of the lists of the first rows of a version, in the order of the version."""
    return [_list(pages, manifest, rows, look, page) for look in LOOKS for page in _numbers(rows)]


def _more(pages: Pages, contents: Contents, rows: _Rows, reserved: int) -> bool:
    """Add the next rows of a version, as many as a list has on a page; returns whether there may be room for yet more."""
    stop = min(rows.taken + SIZE, rows.most)
    if stop == rows.taken:
        return False
    shown = [_list(pages, rows.manifest, rows.most, look, 1 + rows.taken // SIZE) for look in LOOKS]
    cost = sum(map(size_of, shown))
    if reserved + cost > contents.room:
        return False
    rows.reserved += cost
    rows.shown += shown
    reserved += cost
    long_values = [each for page in shown for each in page.asked]
    for row in range(rows.taken, stop):
        own = ADDRESSES.row(rows.manifest.name, rows.manifest.version, row)
        found = list(_whole(pages, own, [each for each in long_values if _is_value_of(each, own)]))
        if reserved + contents.cost(found) > contents.room:
            return False
        contents.add(found)
        rows.taken += 1
    return rows.taken < rows.most


def _whole(pages: Pages, own: str, values: Sequence[str]) -> Iterator[Page]:
    """The page of a row, and those of the values that it or lists refer to."""
    page = pages.page(own)
    yield page
    for each in dict.fromkeys([*values, *(asked for asked in page.asked if asked.startswith("values/"))]):
        yield pages.page(each)


def _is_value_of(address: str, row: str) -> bool:
    return address.partition("?")[0] == row.replace("rows/", "values/", 1)


def _add_orders(pages: Pages, contents: Contents, rows: _Rows) -> None:
    """Add tables in the order of each column, as far as there is room for a whole one."""
    if rows.taken < 2:
        return
    for column in rows.manifest.fields:
        for descending in ("", "1"):
            found = [
                _list(pages, rows.manifest, rows.taken, "table", page, sort=column, desc=descending)
                for page in _numbers(rows.taken)
            ]
            if contents.cost(found) <= contents.room:
                contents.add(found)


def _list(pages: Pages, manifest: Manifest, rows: int, look: str, page: int, **order: str) -> Page:
    """A page of the list of the first rows of a version."""
    chosen = ADDRESSES.version(manifest.name, manifest.version, look="" if look == "table" else look, page=page, **order)
    first = {} if rows == manifest.rows else {"where": f"{ROW} < {rows}"}
    return pages.page(chosen, {**first, "size": str(SIZE)})


def _numbers(rows: int) -> range:
    return range(1, 1 + max(1, -(-rows // SIZE)))
