"""Objects as an Arrow dataset that hands out nothing it did not verify."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from registry.errors import MissingError
from registry.storage.objects import ObjectStore

_AT_ONCE = 16
"""Objects that are verified, and then scanned side by side. More are read faster; of fewer, `limit 1` reads less."""


class VerifiedDataset(ds.FileSystemDataset):  # type: ignore[misc]
    """Parquet objects that DuckDB scans: those that its filter leaves, each verified, all of it, before a row is used.

    A file system written in Python could verify as well, but Arrow's threads would call it, and an error that it raised
    there while another thread starts a scan blocks both for ever.

    Args:
        parts: an object's SHA-256 and an expression that is true for all of its rows.
        schema: the columns, with those that only the expressions know.
        store: has the objects.
        missing: takes the SHA-256 of objects that are not there, which are left out; None: they are errors.
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
        """What DuckDB calls for each scan, with the columns that it wants and the conditions that it can hand over."""
        return Scan(self, columns, filter)

    def batches(self, columns: list[str] | None, filter: ds.Expression | None) -> Iterator[pa.RecordBatch]:
        """The rows, in the order of the objects; raises CorruptError when it comes to a damaged one, or a missing one that
        is not to be left out.
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


class Scan:
    """One scan, in the words of Arrow's scanner."""

    def __init__(self, dataset: VerifiedDataset, columns: list[str] | None, filter: ds.Expression | None) -> None:
        self._dataset = dataset
        self._columns = columns
        self._filter = filter

    def to_reader(self) -> Any:
        """The rows as a stream; nothing is read before the first of them is asked for."""
        schema = self._dataset.schema
        wanted = schema if self._columns is None else pa.schema([schema.field(name) for name in self._columns])
        return pa.RecordBatchReader.from_batches(wanted, self._dataset.batches(self._columns, self._filter))
