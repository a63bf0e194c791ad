"""Which columns of a table are worth a Parquet dictionary: those whose values repeat.

A dictionary of texts that are all different is built in vain: it is written beside the values that did not fit,
and reading takes a third longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_SAMPLE = 200
"""The rows at the start of a table that are looked at."""


def repeating(table: pa.Table) -> list[str]:
    """The Parquet paths of the columns, also those in structs and lists, where at least half of the values repeat others.

    No record type has other nested columns, such as maps; they are left out.
    """
    head = table.slice(0, _SAMPLE).combine_chunks()
    leaves = chain.from_iterable(_leaves(name, head.column(name).chunk(0)) for name in head.column_names if head.num_rows)
    return [path for path, values in leaves if 2 * len(values.unique()) <= len(values)]


def _leaves(path: str, array: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_struct(kind):
        for number, child in enumerate(array.flatten()):
            yield from _leaves(f"{path}.{kind.field(number).name}", child)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _leaves(f"{path}.list.element", array.flatten())
    elif isinstance(kind, pa.BaseExtensionType):
        yield from _leaves(path, array.storage)
    elif not pa.types.is_nested(kind):
        yield path, array
