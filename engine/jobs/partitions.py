"""How a step's rows are cut into partitions.

Where an object is cut depends on its rows alone, never on what else the input has. So when rows are added to an input or
removed from it, most partitions stay the same, and so do their receipts; and the partitions of an object are known as soon as
the object is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from engine.operator.declaration.operator import Operator

if TYPE_CHECKING:
    import pyarrow as pa

PARTITION_BYTES = 16 << 20
"""The maximum size of a partition's rows in memory, in bytes; a worker holds several copies of them."""


class Size(NamedTuple):
    """The number of rows of a partition.

    `least` to `most` rows if the cuts follow the rows' content (`by_content`): one row in `least` may be the last of a
    partition, wherever it stands. Otherwise every partition has `most`, except an object's last one.
    """

    least: int
    most: int
    by_content: bool


CALLS = Size(32, 128, by_content=True)
"""Rows that wait for a server. Few, because a partition is finished, and the next step can begin with it, when its slowest row
is; small enough that adding rows runs few others again."""

LOCAL_CALLS = Size(8, 32, by_content=True)
"""Rows that wait for a model in the worker: fewer, so that a small dataset keeps several GPUs busy."""

COMPUTED = Size(1024, 1024, by_content=False)
"""Rows of operators without models: many, because each costs little."""

BATCHES = Size(4096, 4096, by_content=False)
"""Rows of batch operators without models: more, because they take whole columns at a time, and a partition costs some
milliseconds however few rows it has."""


def size_for(operator: Operator, *, local_model: bool) -> Size:
    """The size of a row or batch operator's partitions."""
    if not operator.roles:
        return BATCHES if operator.shape == "batch" else COMPUTED
    return LOCAL_CALLS if local_model else CALLS


def cuts(table: pa.Table, size: Size) -> Iterator[tuple[int, int]]:
    """The slices [start, stop) of an object's rows; none if there are no rows."""
    rows = table.num_rows
    most = min(size.most, max(1, rows * PARTITION_BYTES // max(1, table.nbytes)))
    if rows <= most or not size.by_content:
        yield from ((start, min(rows, start + most)) for start in range(0, rows, most))
        return
    import numpy as np

    from registry.records.row_hashes import hashed

    ends = np.flatnonzero(hashed(table).hashes % np.uint64(size.least) == 0) + 1
    start = 0
    while start < rows:
        possible = ends[np.searchsorted(ends, start + size.least) :]
        stop = min(rows, start + most, *possible[:1].tolist())
        yield start, stop
        start = stop
