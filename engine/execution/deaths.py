"""Which partitions may have ended the processes that ran them."""

from __future__ import annotations

from collections import Counter

from engine.jobs.messages import Partition

MOST_DEATHS = 3
"""When a process dies, its partitions start again. After this many deaths, a partition counts as the cause. Before the last one
it runs alone, so that nothing counts as the cause of what another partition did."""


class Deaths:
    """The deaths of processes, by the partitions that ran in them."""

    def __init__(self) -> None:
        self._count: Counter[tuple[str, str]] = Counter()

    def add(self, step: str, part: Partition) -> None:
        """Note that a process died while it ran a partition of a step."""
        self._count[step, part.digest] += 1

    def forget(self, step: str, part: Partition) -> None:
        """Note that a partition was finished: it is not the cause of any death."""
        self._count.pop((step, part.digest), None)

    def is_suspect(self, step: str, part: Partition) -> bool:
        """Whether one more death shows that a partition is the cause."""
        return self._count[step, part.digest] >= MOST_DEATHS - 1

    def is_cause(self, step: str, part: Partition) -> bool:
        """Whether a partition has ended every process that ran it."""
        return self._count[step, part.digest] >= MOST_DEATHS

    def __bool__(self) -> bool:
        return bool(self._count)


def explain(part: Partition) -> str:
    """The message for users about a partition that ends its worker processes."""
    where = f"rows {part.first} to {part.first + part.rows - 1}" if part.rows_in else "all its rows"
    return (
        f"a worker process died {MOST_DEATHS} times at {where}: it ran out of memory, or native code crashed. Give "
        "workers more memory, or check these rows"
    )
