"""What is kept in memory from one request to the next: decoded objects, orders of rows, facts. None of it ever changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

    from registry import ObjectStore

V = TypeVar("V")

_TABLES_BYTES = 512 << 20
_ORDERS_BYTES = 64 << 20
_FACTS = 256


class Recent(Generic[V]):
    """The values that were used last, up to a total weight; one that is heavier is used but not kept. For many threads."""

    def __init__(self, most: int, weight: Callable[[V], int] = lambda _: 1) -> None:
        self._most = most
        self._weight = weight
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._total = 0
        self._lock = Lock()

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
    """What one page keeps."""

    def __init__(self) -> None:
        self._tables: Recent[pa.Table] = Recent(_TABLES_BYTES, lambda table: table.nbytes)
        self.orders: Recent[Any] = Recent(_ORDERS_BYTES, lambda order: order.nbytes)
        self.facts: Recent[Any] = Recent(_FACTS)

    def table(self, store: ObjectStore, sha256: str) -> pa.Table:
        """The rows of an object, verified when it was read."""
        return self._tables.get(sha256, lambda: store.read_table(sha256))
