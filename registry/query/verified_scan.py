"""Objects as an Arrow dataset that only returns verified rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from registry.errors import MissingError
from registry.records.arrays import int64_array
from registry.storage.objects import ObjectStore

ReadColumns = Callable[[str, Sequence[str]], pa.Table]
"""Gives columns of an object by its SHA-256, verified."""

_DECODED_AT_ONCE = 4
_BATCH = 1 << 16

_ROW = "row"

_AT_ONCE = 16
"""Objects that are verified, and then scanned in parallel. More is faster; fewer means that `limit 1` reads less."""


class VerifiedDataset(ds.FileSystemDataset):  # type: ignore[misc]
    """Parquet objects that DuckDB scans. Those that pass the filter are verified completely before a row is used.

    A file system written in Python could also verify, but Arrow's threads would call it, and an error in one of them while
    another thread starts a scan would block both forever.

    Args:
        parts: an object's SHA-256 and an expression that is true for all of its rows.
        schema: the columns, including those that only the expressions define.
        store: contains the objects.
        missing: collects the SHA-256 of missing objects, which are left out; None: they are errors.
    """

    def __init__(
        self,
        parts: Iterable[tuple[str, ds.Expression]],
        schema: pa.Schema,
        store: ObjectStore,
        missing: list[str] | None = None,
    ) -> None:
        self._store = store
        self._missing = missing
        self._format = ds.ParquetFileFormat(
            default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        )
        nowhere = fs.LocalFileSystem()
        fragments = [self._format.make_fragment(sha256, nowhere, partition_expression=known) for sha256, known in parts]
        super().__init__(fragments, schema, self._format, nowhere)

    def scanner(self, columns: list[str] | None = None, filter: ds.Expression | None = None) -> Scan:
        """Called by DuckDB for each scan, with the columns that it needs and the conditions that it can push down."""
        return Scan(self, columns, filter)

    def batches(self, columns: list[str] | None, filter: ds.Expression | None) -> Iterator[pa.RecordBatch]:
        """The rows, in the order of the objects. Raises CorruptError for a damaged object, and for a missing one unless it
        is left out.
        """
        left = iter(self.get_fragments(filter))
        while group := list(islice(left, _AT_ONCE)):
            verified = [
                self._format.make_fragment(opened, partition_expression=part.partition_expression)
                for part in group
                if (opened := self._opened(part.path))
            ]
            if not verified:
                continue
            yield from ds.FileSystemDataset(verified, self.schema, self._format).to_batches(columns=columns, filter=filter)

    def _opened(self, sha256: str) -> pa.NativeFile | None:
        try:
            return self._store.open(sha256)
        except MissingError:
            if self._missing is None:
                raise
            self._missing.append(sha256)
            return None


class DecodedDataset(VerifiedDataset):
    """Objects whose columns something else reads, verified, and may keep for the next scan.

    The first column is `row`, the number of each row. A window in SQL could number them, but DuckDB computes it, and all that
    follows it, in one thread.

    Args:
        parts: an object's SHA-256 and its number of rows, in order.
        read: gives columns of an object by its SHA-256; called from several threads.
    """

    def __init__(self, parts: Sequence[tuple[str, int]], schema: pa.Schema, store: ObjectStore, read: ReadColumns) -> None:
        numbered = schema.insert(0, pa.field(_ROW, pa.int64()))
        super().__init__(((sha256, ds.scalar(True)) for sha256, _ in parts), numbered, store)
        stops = accumulate(rows for _, rows in parts)
        self._parts = [(sha256, stop - rows) for (sha256, rows), stop in zip(parts, stops, strict=True)]
        self._read = read

    def batches(self, columns: list[str] | None, filter: ds.Expression | None) -> Iterator[pa.RecordBatch]:
        """See VerifiedDataset."""
        names = self.schema.names if columns is None else columns
        if not names:
            yield from super().batches(columns, filter)
            return
        # A filter may need columns that the query does not. Arrow does not say which: at most those that its text names.
        text = "" if filter is None else str(filter)
        needed = [*names, *(name for name in self.schema.names if name not in names and name in text)]

        def rows(sha256: str, first: int) -> pa.Table:
            table = self._numbered(sha256, first, needed)
            return (table if filter is None else table.filter(filter)).select(names)

        readers = ThreadPoolExecutor(_DECODED_AT_ONCE)
        try:
            waiting: deque[Future[pa.Table]] = deque()
            for part in self._parts:
                waiting.append(readers.submit(rows, *part))
                if len(waiting) > _DECODED_AT_ONCE:
                    yield from waiting.popleft().result().to_batches(_BATCH)
            for table in waiting:
                yield from table.result().to_batches(_BATCH)
        finally:
            readers.shutdown(cancel_futures=True)

    def _numbered(self, sha256: str, first: int, names: Sequence[str]) -> pa.Table:
        """Columns of an object. Its rows are counted by a column that is stored, as `row` is not."""
        stored = [name for name in names if name != _ROW] or self.schema.names[1:2]
        table = self._read(sha256, stored)
        return table.add_column(0, _ROW, int64_array(np.arange(first, first + table.num_rows)))


class Scan:
    """One scan, with the interface of Arrow's scanner."""

    def __init__(self, dataset: VerifiedDataset, columns: list[str] | None, filter: ds.Expression | None) -> None:
        self._dataset = dataset
        self._columns = columns
        self._filter = filter

    def to_reader(self) -> Any:
        """The rows as a stream; nothing is read before the first row is requested."""
        schema = self._dataset.schema
        wanted = schema if self._columns is None else pa.schema([schema.field(name) for name in self._columns])
        return pa.RecordBatchReader.from_batches(wanted, self._dataset.batches(self._columns, self._filter))
