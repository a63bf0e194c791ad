"""Reads objects with edges, row group by row group. The groups that were read last are kept: the rows of a version are often
looked up one after the other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Literal, TypeVar

import pyarrow as pa

from registry.errors import CorruptError
from registry.storage.objects import ObjectStore

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Column = Literal["child_row", "parent_row"]
V = TypeVar("V")

_GROUPS = 24
"""Row groups that are kept; each has at most 65,536 edges of 24 bytes."""

_INDEXES = 512
"""Objects whose bounds are kept."""

Bounds = dict[str, tuple[int, int] | None]
"""The least and the greatest value of each column of a row group, where they are known."""


class EdgeObjects:
    """Reads the objects of a store; not for use from several threads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._groups: OrderedDict[Hashable, pa.Table] = OrderedDict()
        self._bounds: OrderedDict[Hashable, list[Bounds]] = OrderedDict()

    def between(self, sha256: str, column: Column, least: int, most: int) -> pa.Table:
        """The row groups of an object in which a column may have values from `least` to `most`. Raises CorruptError."""
        bounds = kept(self._bounds, sha256, lambda: self._read_bounds(sha256), _INDEXES)
        chosen = [
            group for group, known in enumerate(bounds) if (at := known[column]) is None or (at[0] <= most and at[1] >= least)
        ]
        if len(chosen) == 1:
            [group] = chosen
            return kept(self._groups, (sha256, group), lambda: self._read(sha256, chosen), _GROUPS)
        return self._read(sha256, chosen)

    def _read(self, sha256: str, groups: list[int]) -> pa.Table:
        with self._store.open(sha256) as source, _parquet(source) as file:
            try:
                return file.read_row_groups(groups)
            except (OSError, pa.ArrowException) as error:
                raise CorruptError(f"object {sha256} is damaged: {error}") from error

    def _read_bounds(self, sha256: str) -> list[Bounds]:
        with self._store.open(sha256) as source, _parquet(source) as file:
            names = file.schema_arrow.names
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            return [{name: _bounds(group.column(place).statistics) for place, name in enumerate(names)} for group in groups]


def _parquet(source: pa.NativeFile) -> pq.ParquetFile:
    import pyarrow.parquet  # most queries do without

    return pyarrow.parquet.ParquetFile(source, page_checksum_verification=True)


def _bounds(statistics: pq.Statistics | None) -> tuple[int, int] | None:
    return (statistics.min, statistics.max) if statistics is not None and statistics.has_min_max else None


def kept(values: OrderedDict[Hashable, V], key: Hashable, make: Callable[[], V], most: int) -> V:
    """A value that is made if it is not among those that were used last."""
    if key not in values:
        values[key] = make()
        if len(values) > most:
            values.popitem(last=False)
    values.move_to_end(key)
    return values[key]
