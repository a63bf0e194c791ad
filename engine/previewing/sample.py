"""A few rows of a version, drawn by their content: the same rows, whatever their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry import DataObject, ObjectStore

if TYPE_CHECKING:
    import pyarrow as pa


def drawn(store: ObjectStore, data: Sequence[DataObject], count: int, seed: int) -> list[pa.Table]:
    """`count` rows of some objects (all, if there are no more), each as a table, in the order of the objects.

    The rows with the smallest hashes of (seed, content). So which rows are drawn does not depend on their order, a smaller
    sample is part of a larger one, and each row is as likely to be drawn as any other.
    """
    import numpy as np

    from registry.records.content import row_ids
    from registry.records.row_hashes import hashed

    # A cheap hash of all rows first; a real one only for those that may be among the smallest.
    salt = np.uint64(int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8]))
    keys = []
    for each in data:
        hashes = hashed(store.read_table(each.sha256)).hashes
        mixed = (hashes ^ salt) * np.uint64(0x9E3779B97F4A7C15)
        keys.append(mixed ^ (mixed >> np.uint64(32)))
    every = np.concatenate([np.empty(0, np.uint64), *keys])
    if len(every) > count:
        worst = np.partition(every, count - 1)[count - 1]
        candidates = np.flatnonzero(every <= worst)
    else:
        candidates = np.arange(len(every))
    found = []
    first = 0
    for each in data:
        places = candidates[(candidates >= first) & (candidates < first + each.rows)] - first
        if len(places):
            table = store.read_table(each.sha256)
            rows = [table.slice(place, 1) for place in places.tolist()]
            for place, row in zip(places.tolist(), rows, strict=True):
                found.append((int(every[first + place]), next(row_ids(row)), first + place, row))
        first += each.rows
    chosen = sorted(found, key=lambda each: each[:3])[:count]
    return [row for _, _, _, row in sorted(chosen, key=lambda each: each[2])]
