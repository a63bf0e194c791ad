"""Side objects of versions as tables that DuckDB scans: row lineage, model calls, rejects.

Each object is a fragment of one Arrow dataset. Its version is its partition value, so a query for one version only opens
the objects of that version. Each object is verified completely when it is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from registry.storage.objects import ObjectStore

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from registry.query.verified_scan import ReadColumns


class Fragment(NamedTuple):
    """A Parquet object and the columns that are constant in it."""

    sha256: str
    constants: dict[str, str | int]


def scan(
    fragments: Iterable[Fragment],
    schema: pa.Schema,
    store: ObjectStore,
    missing: list[str] | None = None,
) -> ds.Dataset | pa.Table:
    """Objects as one dataset of `schema` plus the constants of the fragments, read lazily and verified when read.

    Args:
        missing: collects the SHA-256 of missing objects, which are left out. Without it, they are errors.
    """
    fragments = list(fragments)
    if not fragments:
        return schema.empty_table()
    # It imports pandas, which takes longer than the rest of a command.
    from registry.query.verified_scan import VerifiedDataset

    return VerifiedDataset(((sha256, _equals(constants)) for sha256, constants in fragments), schema, store, missing)


def rows(
    parts: Sequence[tuple[str, int]], schema: pa.Schema, store: ObjectStore, read: ReadColumns | None
) -> ds.Dataset | pa.Table:
    """The rows of a version as one dataset.

    Args:
        parts: the SHA-256 of each object, and its number of rows.
        read: reads the objects; called from several threads. With it, the dataset has the column `row`, too.
    """
    if read is None:
        return scan([Fragment(sha256, {}) for sha256, _ in parts], schema, store)
    from registry.query.verified_scan import DecodedDataset

    return DecodedDataset(parts, schema, store, read)


def _equals(constants: dict[str, str | int]) -> ds.Expression:
    import pyarrow.dataset as ds

    expression = ds.scalar(True)
    for name, value in constants.items():
        expression = expression & (ds.field(name) == value)
    return expression


def with_columns(schema: pa.Schema, extra: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    """`schema` with constant columns at its end."""
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in extra)])
