"""Sessions over the registry for the requests of a page, which come from many threads at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry import Registry
    from registry.query.session import Session

AT_ONCE = 8
"""Requests that read the registry at a time; the others wait. Each holds a copy of the catalog in memory."""


@dataclass(frozen=True)
class Reader:
    """What a request reads: a registry, and a session that is one snapshot of it."""

    registry: Registry
    session: Session


class Sessions:
    """Gives each request a reader of its own.

    Args:
        location: the folder or URL of the registry, as for Registry.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._room = BoundedSemaphore(AT_ONCE)

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """A reader that nobody else uses during the block."""
        from registry import Registry

        with self._room:
            registry = Registry(self.location)  # one's own: a registry is not for several threads
            with registry.session() as session:
                yield Reader(registry, session)
