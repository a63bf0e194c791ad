"""The content ids of a step's outputs, computed while its partitions arrive.

A content id is a sequential hash over all rows in order, so workers cannot each compute a part of it. The driver hashes the
finished partitions in the order of the input while it waits for others: at the commit, only the last ones are left to read.
If one partition is the whole step, its worker has computed the ids, and nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.jobs.messages import Partition, Receipt
from engine.operator.declaration import Operator
from registry import ObjectStore
from registry.records.content import ContentHash


class ContentIds:
    """Takes receipts in any order.

    Args:
        store: has the objects that receipts name.
        operator: has the outputs; those that are only made at the end of the step are not hashed here.
        parts: all partitions of the step, in order.
    """

    def __init__(self, store: ObjectStore, operator: Operator, parts: Sequence[Partition]) -> None:
        self._store = store
        self._single = len(parts) == 1
        self._pending = [part.start for part in reversed(parts)]
        self._waiting: dict[int, Receipt] = {}
        self._ids: dict[str, str] = {}
        self._hashes = {
            name: ContentHash(record.arrow_schema())
            for name, record in operator.outputs.items()
            if name not in operator.finished_outputs
        }

    def add(self, receipts: Iterable[Receipt]) -> None:
        """Hash the outputs of receipts as soon as all partitions before them are hashed."""
        self._waiting |= {receipt.partition.start: receipt for receipt in receipts}
        while self._pending and (receipt := self._waiting.pop(self._pending[-1], None)):
            self._pending.pop()
            for name, content in self._hashes.items():
                part = receipt.outputs[name]
                if self._single and part.content_id:
                    self._ids[name] = part.content_id
                elif part.data:
                    content.update(self._store.read_table(part.data.sha256))

    def result(self) -> dict[str, str]:
        """The content ids by output, after all partitions were added."""
        assert not self._pending, "a partition is missing"
        return {name: self._ids.get(name) or content.content_id() for name, content in self._hashes.items()}
