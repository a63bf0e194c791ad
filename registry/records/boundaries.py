"""Where objects of rows end: boundaries that follow from the rows, so that an edit changes only the objects around it.

Content-defined chunking by local minima. A row ends an object if its hash is the lowest of all rows within a window before and
after it. That depends on these rows alone: rows that are inserted, changed or removed anywhere move only the boundaries within
a window of them, and all other objects keep their bytes. Distances are in bytes, and a short row counts as more than it has, so
objects of short rows are bounded by rows and those of long rows by bytes.

Rows without such a boundary for long, because they repeat, are divided at the lowest hash in reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from registry.records.row_hashes import hashed

Numbers = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


class Bounds(NamedTuple):
    """The sizes of objects, in bytes of their rows in memory.

    Attributes:
        row: the minimum size that a row counts with, in bytes.
        window: the minimum distance between two boundaries; the average distance is twice as large.
        most: the maximum size of an object, unless its last row exceeds it; several times `window`.
    """

    row: int
    window: int
    most: int


BOUNDS = Bounds(row=512, window=2 << 20, most=16 << 20)
"""Objects of short rows have at least 4,096 rows, some 8,192 on average, and at most 32,768.

Reading a part of an object decodes all of it. Writing one takes a few times its size in memory and two fsyncs.
"""


def split(tables: Iterable[pa.Table], bounds: Bounds | None = None) -> Iterator[pa.Table]:
    """The same rows in tables that end at the boundaries, each in one piece of memory; at least one table.

    How the rows are divided among `tables`, all of one schema, makes no difference. About `bounds.most` bytes of rows are
    held at a time.
    """
    bounds = bounds or BOUNDS
    pieces: list[pa.Table] = []
    hashes: list[Numbers] = []
    weights: list[Places] = []
    waiting = 0
    schema, found = None, False

    def objects(*, final: bool) -> Iterator[pa.Table]:
        nonlocal waiting, found
        rows, every, sizes = pa.concat_tables(pieces), np.concatenate(hashes), np.concatenate(weights)
        start = 0
        for stop in _stops(every, np.cumsum(sizes), bounds, final=final):
            found = True
            yield rows.slice(start, stop - start).combine_chunks()
            start = stop
        pieces[:], hashes[:], weights[:] = [rows.slice(start)], [every[start:]], [sizes[start:]]
        waiting = int(weights[0].sum())

    for table in tables:
        schema = table.schema
        if not table.num_rows:
            continue
        each = hashed(table)
        pieces.append(table)
        hashes.append(each.hashes)
        weights.append(np.maximum(each.bytes, bounds.row))
        waiting += int(weights[-1].sum())
        if waiting > bounds.most + bounds.window:
            yield from objects(final=False)
    if waiting:
        yield from objects(final=True)
    elif not found and schema is not None:
        yield schema.empty_table()


def changeable_objects(last: tuple[int, int], before: tuple[int, int], bounds: Bounds | None = None) -> int:
    """How many objects at the end of some rows may end elsewhere when rows follow: 1 or 2. All others stay.

    Args:
        last, before: the rows of the last two objects, and their bytes in memory (0: unknown).
    """
    bounds = bounds or BOUNDS
    # A boundary is forced too early, because no rows followed, only if the last two objects are too much for one.
    known = last[1] and before[1]
    return 1 if known and sum(bytes_ + rows * bounds.row for rows, bytes_ in (last, before)) <= bounds.most else 2


def _stops(hashes: Numbers, ends: Places, bounds: Bounds, *, final: bool) -> Iterator[int]:
    """The rows after which objects end, of rows that begin with an object.

    Args:
        ends: the bytes up to and with each row.
        final: no rows follow. Otherwise rows are left over, whose boundaries depend on those to come.
    """
    total = int(ends[-1])
    minima = np.flatnonzero(_is_lowest(hashes, ends, bounds.window))
    # The first and the last object have a least size, too; and a minimum is one only if all rows after it are known.
    minima = minima[total - ends[minima] > bounds.window]
    begun = 0  # bytes before the object
    while True:
        reach = begun + bounds.window
        # Beyond it, so that all rows of its window are of this object: what was before it makes no difference.
        natural = minima[np.searchsorted(ends[minima], reach, side="right") :]
        stop = int(natural[0]) if len(natural) else None
        if stop is None or ends[stop] > begun + bounds.most:
            known = total if final else total - bounds.window
            if known <= begun + bounds.most:
                if final:
                    yield len(ends)
                return
            stop = _forced(hashes, ends, reach, begun + bounds.most - bounds.window)
        yield stop + 1
        begun = int(ends[stop])
        if begun == total:
            return


def _forced(hashes: Numbers, ends: Places, least: int, most: int) -> int:
    """The last row of an object without a natural boundary: of those that end within (least, most), the lowest."""
    first = int(np.searchsorted(ends, least))
    last = max(first, int(np.searchsorted(ends, most, side="right")) - 1)
    return last - int(np.argmin(hashes[first : last + 1][::-1]))


def _is_lowest(hashes: Numbers, ends: Places, window: int) -> npt.NDArray[np.bool_]:
    """Whether each row's hash is lower than those within `window` before it, and no higher than those after it."""
    here = np.arange(len(hashes))
    before = _lowest(hashes, np.searchsorted(ends, ends - window), here)
    after = _lowest(hashes, here + 1, np.searchsorted(ends, ends + window, side="right"))
    return (hashes < before) & (hashes <= after)


def _lowest(values: Numbers, starts: Places, stops: Places) -> Numbers:
    """The minimum of values[start:stop] for each start and stop; the largest number for an empty range.

    By a sparse table: level k has the minima of all runs of 2**k values, and two such runs cover a range.
    """
    lengths = stops - starts
    found = np.full(len(starts), np.iinfo(np.uint64).max, np.uint64)
    level, width = values, 1
    while True:
        chosen = np.flatnonzero((lengths >= width) & (lengths < 2 * width))
        found[chosen] = np.minimum(level[starts[chosen]], level[stops[chosen] - width])
        if not np.any(lengths >= 2 * width):
            return found
        level, width = np.minimum(level[:-width], level[width:]), 2 * width
