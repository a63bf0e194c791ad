"""The rows of a review, by the ids of their content: equal rows are one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from registry import DataObject, ObjectStore, Record, VersionRef
from registry.records.content import row_ids
from registry.reviews.decisions import RowPlace

_OBJECTS_KNOWN = 64
"""Objects whose row ids are cached: a run needs them twice, the review page for every row."""


class Rows(NamedTuple):
    """A version, and the objects with its rows."""

    ref: VersionRef
    data: Sequence[DataObject]


class _Place(NamedTuple):
    """Where a row is: the number of its version, its object, and its row in the version and in the object."""

    version: int
    sha256: str
    row: int
    within: int


@dataclass(frozen=True)
class ReviewRows:
    """The different rows of some versions.

    Args:
        store: the store of the objects.
        record: the type of the rows.
        versions: the versions; their rows are concatenated.
        places: the places of the first row with each content, by its id, in the order of the rows.
        count: the number of all rows.
    """

    store: ObjectStore
    record: type[Record]
    versions: tuple[VersionRef, ...]
    places: dict[str, _Place]
    count: int

    @classmethod
    def of(cls, store: ObjectStore, versions: Iterable[Rows], record: type[Record]) -> ReviewRows:
        """The rows of these versions."""
        places: dict[str, _Place] = {}
        refs, count = [], 0
        for number, (ref, data) in enumerate(versions):
            refs.append(ref)
            first = 0
            for each in data:
                for within, row_id in enumerate(_ids(store, each.sha256, record)):
                    places.setdefault(row_id, _Place(number, each.sha256, first + within, within))
                first += each.rows
            count += first
        return cls(store, record, tuple(refs), places, count)

    def __contains__(self, row_id: str) -> bool:
        return row_id in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def row(self, row_id: str) -> Record:
        """The row with this content; raises KeyError if there is none."""
        place = self.places[row_id]
        table = self.store.read_recent(place.sha256).slice(place.within, 1)
        return next(self.record.from_table(self.record.conform(table)))

    def place(self, row_id: str) -> RowPlace | None:
        """Where it is, first; None if its version has no number yet."""
        place = self.places[row_id]
        ref = self.versions[place.version]
        return RowPlace(name=ref.name, version=ref.version, row=place.row) if ref.version else None


@lru_cache(maxsize=_OBJECTS_KNOWN)
def _ids(store: ObjectStore, sha256: str, record: type[Record]) -> tuple[str, ...]:
    return tuple(row_ids(record.conform(store.read_table(sha256))))
