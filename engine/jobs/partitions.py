"""How the rows of a step are split into partitions."""

from __future__ import annotations

from engine.jobs.messages import Partition

PARTITION_BYTES = 16 << 20
"""Of a partition's rows in memory, at most; a worker holds them a few times over."""


def partitions(rows: int, memory: int, shape: str, calls_models: bool) -> list[Partition]:
    """Split a step's rows. The split depends on nothing but these, so that an interrupted run finds its receipts.

    Small partitions lose little when a worker dies, and keep several workers busy; large ones cost less for each row.
    There are never many more than 500 of them, unless rows are long.

    Args:
        memory: the size of all rows in memory (0: not known).
    """
    if shape == "whole":
        return [Partition(start=0, stop=rows)]
    least = min(64, max(16, rows // 32)) if calls_models else 1024
    size = max(least, -(-rows // 512))
    if memory:
        size = min(size, max(1, rows * PARTITION_BYTES // memory))
    return [Partition(start=start, stop=min(rows, start + size)) for start in range(0, rows, size)]
