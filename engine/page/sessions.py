"""Sessions over the registry for the requests of a page, which come from many threads at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING

from engine.page.kept import Kept

if TYPE_CHECKING:
    from registry import Registry
    from registry.query.session import Session

AT_ONCE = 8
"""Requests that read the registry at a time; the others wait. Each holds a copy of the catalog in memory."""

_RESTING = 4
"""Sessions that are kept for the next requests."""

_MEMORY = "25%"
"""The most memory of a query, of the machine's."""


@dataclass(frozen=True)
class Reader:
    """Everything that a request reads: a registry, a session with one snapshot of it, and values kept between requests."""

    registry: Registry
    session: Session
    kept: Kept


class Sessions:
    """Gives each request its own reader.

    A session is reused as long as the catalog has not changed, because a new one copies the catalog. An idle session does not
    prevent versions from being removed.

    Args:
        location: the folder or URL of the registry, as for Registry.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._kept = Kept()
        self._room = BoundedSemaphore(AT_ONCE)
        self._resting: list[Reader] = []
        self._lock = Lock()

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """A reader that nobody else uses during the block."""
        with self._room:
            reader = self._rested() or self._fresh()
            try:
                yield reader
            except BaseException:
                # After some errors, DuckDB cannot be used any more.
                reader.session.close()
                raise
            self._rest(reader)

    def close(self) -> None:
        """Close the idle sessions."""
        with self._lock:
            resting, self._resting = self._resting, []
        for reader in resting:
            reader.session.close()

    def _fresh(self) -> Reader:
        from registry import Registry
        from registry.query.session import Session

        registry = Registry(self.location)  # its own registry, because a registry is not for several threads
        read = partial(self._kept.table, registry.store)
        return Reader(registry, Session(registry.catalog, registry.store, registry.reviews, _MEMORY, read), self._kept)

    def _rested(self) -> Reader | None:
        """An idle reader that is as good as a new one. Readers that are out of date are closed."""
        while True:
            with self._lock:
                if not self._resting:
                    return None
                reader = self._resting.pop()
            try:
                if reader.session.wake():
                    return reader
            except BaseException:
                reader.session.close()
                raise
            reader.session.close()

    def _rest(self, reader: Reader) -> None:
        reader.session.rest()
        with self._lock:
            if len(self._resting) < _RESTING:
                self._resting.append(reader)
                return
        reader.session.close()
