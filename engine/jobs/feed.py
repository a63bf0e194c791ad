"""The streamed input of a step: objects that arrive one by one, cut into partitions."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.jobs.messages import Partition, Slice
from engine.jobs.partitions import Size, cuts
from registry import DataObject, ObjectStore


@dataclass
class _Part:
    """The objects of one version of the input that have arrived so far."""

    waiting: deque[DataObject] = field(default_factory=deque)
    valid: bool = False
    rows: int = 0
    complete: bool = False


class Feed:
    """Takes the objects of the versions of a streamed input, and returns partitions in the order of the rows.

    The versions are fed side by side: partitions of the second one do not wait for the first one to be complete.

    Args:
        store: the store of the objects.
        size: the size of the partitions.
        versions: the number of versions, concatenated.
    """

    def __init__(self, store: ObjectStore, size: Size, versions: int) -> None:
        self._store = store
        self._size = size
        self._parts = [_Part() for _ in range(versions)]

    def add(self, version: int, objects: Sequence[DataObject], *, valid: bool) -> None:
        """Append objects to a version; `valid` as in InputVersion."""
        self._parts[version].valid = valid
        self._parts[version].waiting.extend(objects)

    def complete(self, version: int) -> None:
        """Mark a version as complete: it gets no more objects."""
        self._parts[version].complete = True

    @property
    def can_cut(self) -> bool:
        """Whether there are objects that have not been cut."""
        return any(part.waiting for part in self._parts)

    @property
    def is_cut(self) -> bool:
        """Whether all objects have arrived and are cut."""
        return all(part.complete and not part.waiting for part in self._parts)

    @property
    def is_complete(self) -> bool:
        """Whether all objects have arrived."""
        return all(part.complete for part in self._parts)

    @property
    def cut_from_start(self) -> int:
        """How many versions, from the first, will get no more partitions."""
        cut = [part.complete and not part.waiting for part in self._parts]
        return cut.index(False) if False in cut else len(cut)

    @property
    def rows(self) -> int:
        """The number of rows that have arrived so far."""
        return sum(part.rows + sum(each.rows for each in part.waiting) for part in self._parts)

    def cut(self) -> tuple[int, list[Partition]]:
        """Read the next object and cut it; returns the number of its version, and the partitions."""
        from registry.records.content import content_id

        version, part = next((number, each) for number, each in enumerate(self._parts) if each.waiting)
        data = part.waiting.popleft()
        table = self._store.read_recent(data.sha256)
        made = []
        for start, stop in cuts(table, self._size):
            digest = content_id(table.schema, [table.slice(start, stop - start)])
            rows = Slice(sha256=data.sha256, start=start, stop=stop, valid=part.valid)
            made.append(Partition(digest=digest, rows=rows.rows, rows_in=rows, first=part.rows + start))
        part.rows += data.rows
        return version, made
