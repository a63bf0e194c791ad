"""How a step's rows are split into partitions."""

from __future__ import annotations

from engine.jobs.messages import Partition

PARTITION_BYTES = 16 << 20
"""The most bytes of a partition's rows in memory; a worker holds several copies of them."""


def partitions(rows: int, memory: int, shape: str, calls_models: bool) -> list[Partition]:
    """Split a step's rows. The split depends only on the arguments, so a resumed run finds its receipts.

    Small partitions lose little when a worker dies, and keep several workers busy; large ones cost less per row. A step has
    about 500 at most, unless its rows are long.

    Args:
        memory: the size of all rows in memory (0: unknown).
    """
    if shape == "whole":
        return [Partition(start=0, stop=rows)]
    least = min(64, max(16, rows // 32)) if calls_models else 1024
    size = max(least, -(-rows // 512))
    if memory:
        size = min(size, max(1, rows * PARTITION_BYTES // memory))
    return [Partition(start=start, stop=min(rows, start + size)) for start in range(0, rows, size)]
