"""The outputs of a step as they are finished: in the order of its input, as far as all partitions before are finished as well.

A content id is a sequential hash over all rows in order, so workers cannot each compute a part of it. It is computed here from
the finished partitions while others run; at the commit only the last ones are left to read. The steps that follow take their
rows from here, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.jobs.messages import Receipt
from engine.operator.declaration.operator import Operator
from registry import DataObject, ObjectStore


class FinishedRows:
    """Takes receipts in the order of the input.

    Args:
        store: the store of the objects that receipts name.
        operator: the operator, which has the outputs. Outputs that are only made at the end of the step are left out.
    """

    def __init__(self, store: ObjectStore, operator: Operator) -> None:
        from registry.records.content import ContentHash  # imports Arrow, which a run of hits does without

        self._store = store
        self._known: dict[str, str] = {}
        self._hashes = {
            name: ContentHash(record.arrow_schema())
            for name, record in operator.outputs.items()
            if name not in operator.finished_outputs
        }
        self.objects: dict[str, list[DataObject]] = {name: [] for name in self._hashes}

    def add(self, receipts: Sequence[Receipt]) -> None:
        """Append the rows of receipts, which must follow those that were added before."""
        for receipt in receipts:
            for name, content in self._hashes.items():
                part = receipt.outputs[name]
                if part.data is None:
                    continue
                self.objects[name].append(part.data)
                if part.content_id:
                    self._known[name] = part.content_id
                else:
                    content.update(self._store.read_recent(part.data.sha256))

    def content_ids(self) -> dict[str, str]:
        """The content ids by output, after all receipts were added."""
        return {name: self._known.get(name) or content.content_id() for name, content in self._hashes.items()}
