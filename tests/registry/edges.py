"""Side objects with lineage, for versions that tests write themselves."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from registry import Registry, SideObject
from registry.catalog import side_schemas


def side_of_edges(registry: Registry, parents: Sequence[int]) -> tuple[SideObject, ...]:
    """The side objects of a version each of whose rows came from one of these rows of the first input; none without rows."""
    if not parents:
        return ()
    columns = {"child_row": range(len(parents)), "input": [0] * len(parents), "parent_row": parents}
    stored = registry.store.put_table(pa.table(columns, schema=side_schemas.LINEAGE))
    return (SideObject(kind="lineage", sha256=stored.sha256, rows=len(parents), bytes=stored.bytes),)
