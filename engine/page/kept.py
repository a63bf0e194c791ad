"""Values that are kept in memory between requests: decoded columns, orders of rows, facts. None of them ever changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from registry.errors import RegistryError

if TYPE_CHECKING:
    import pyarrow as pa

    from registry import ObjectStore

V = TypeVar("V")

_COLUMNS_BYTES = 512 << 20
_ORDERS_BYTES = 64 << 20
_COMPARISONS_BYTES = 256 << 20
_FACTS = 256
_READING = 64
"""Locks that objects share while they are read."""


class Recent(Generic[V]):
    """The most recently used values, up to a total weight; a heavier value is used but not kept. For use from many threads."""

    def __init__(self, most: int, weight: Callable[[V], int] = lambda _: 1) -> None:
        self._most = most
        self._weight = weight
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._total = 0
        self._lock = Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not there. Two threads may make the same one at the same time."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        made = make()
        weight = self._weight(made)
        with self._lock:
            if key not in self._values and weight <= self._most:
                self._values[key] = made
                self._total += weight
                while self._total > self._most:
                    _, oldest = self._values.popitem(last=False)
                    self._total -= self._weight(oldest)
        return made


class Kept:
    """Everything that a page keeps."""

    def __init__(self) -> None:
        self._columns: Recent[pa.ChunkedArray] = Recent(_COLUMNS_BYTES, lambda column: column.nbytes)
        self._preparing = Lock()
        self._reading = [Lock() for _ in range(_READING)]
        self.orders: Recent[Any] = Recent(_ORDERS_BYTES, lambda order: order.nbytes)
        self.comparisons: Recent[Any] = Recent(_COMPARISONS_BYTES, lambda comparison: comparison.nbytes)
        self.facts: Recent[Any] = Recent(_FACTS)

    def table(self, store: ObjectStore, sha256: str, names: Sequence[str]) -> pa.Table:
        """Columns of an object, verified when they were read. Those that are not kept are read together, by one thread."""
        import pyarrow as pa

        with self._reading[hash(sha256) % _READING]:
            missing = [name for name in names if (sha256, name) not in self._columns]
            read = store.read_table(sha256, missing) if missing else None

            def column(name: str) -> pa.ChunkedArray:
                table = read if read and name in missing else store.read_table(sha256, [name])
                return table.column(name)

            found = [self._columns.get((sha256, name), lambda name=name: column(name)) for name in names]  # type: ignore[misc]
        return pa.Table.from_arrays(found, names=list(names))

    def prepare(self, store: ObjectStore, objects: Sequence[str], names: Sequence[str]) -> None:
        """Read columns in the background, as far as they take no more than half of the room; one dataset at a time.

        A user who looks at the first rows of a large dataset is likely to sort or filter them next.
        """

        def read() -> None:
            try:
                size = 0
                for sha256 in objects:
                    size += self.table(store, sha256, names).nbytes
                    if size > _COLUMNS_BYTES // 2:
                        return
            except (RegistryError, OSError):
                pass  # the request for these rows reports it
            finally:
                self._preparing.release()

        is_ready = all((sha256, name) in self._columns for sha256 in objects for name in names)
        if not is_ready and self._preparing.acquire(blocking=False):
            Thread(target=read, name="prepare columns", daemon=True).start()
