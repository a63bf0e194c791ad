"""Rows behind the reasons of a failed step's rejects. It has no outputs, whose side objects name the rows of other steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.causes import cause_of

if TYPE_CHECKING:
    from engine.jobs.messages import InputVersion, Receipt
    from engine.operator.declaration.operator import Operator
    from registry import ObjectStore

_EXAMPLES = 3

Place = tuple[str, int, int]
"""A row: the name and the number of its version, and its row number."""


def examples(
    store: ObjectStore,
    placed: Iterable[tuple[int, Receipt]],
    operator: Operator,
    inputs: Mapping[str, Sequence[InputVersion]],
) -> dict[str, tuple[Place, ...]]:
    """By cause, the first rows that were rejected for it, as far as their versions are committed.

    Args:
        placed: finished partitions, each with the place of its first row in the streamed input.
        inputs: all versions of each input.
    """
    import numpy as np
    import pyarrow as pa

    from engine.running.addresses import InputRows

    pieces = [(store.read_table(receipt.rejects.sha256), first) for first, receipt in placed if receipt.rejects]
    if not pieces:
        return {}
    firsts = np.repeat([first for _, first in pieces], [table.num_rows for table, _ in pieces])
    table = InputRows(operator, inputs).named(pa.concat_tables([table for table, _ in pieces]).combine_chunks(), firsts)
    refs = [version.ref for versions in inputs.values() for version in versions]
    found: dict[str, tuple[Place, ...]] = {}
    for number, row, reason in zip(*(table[name].to_pylist() for name in ("input", "parent_row", "reason")), strict=True):
        ref, cause = refs[number], cause_of(reason)
        known = found.get(cause, ())
        if ref.version and len(known) < _EXAMPLES:
            found[cause] = (*known, (ref.name, ref.version, row))
    return found
