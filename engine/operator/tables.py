"""Whole inputs and batches: what an operator gets besides single rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from engine.provenance import RowRef, marked
from registry import Record

if TYPE_CHECKING:
    import pyarrow as pa

R = TypeVar("R", bound=Record)


class Table(Generic[R]):
    """A whole input: its records in order, read on demand. `table.arrow` has the same rows as an Arrow table.

    Each record remembers its row, so what is made from it has lineage. `table.ref(n)` stands for row `n` where an operator
    works on the Arrow table.
    """

    def __init__(self, record: type[R], arrow: pa.Table, port: str = "") -> None:
        self.record = record
        self.arrow = arrow
        self.port = port

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __iter__(self) -> Iterator[R]:
        for row, record in enumerate(self.record.from_table(self.arrow)):
            yield marked(record, self.ref(row))

    def row_ids(self) -> list[str]:
        """A digest of the fields of each row, in order: equal rows have equal ids, wherever they are."""
        from registry.records.content import row_ids

        return list(row_ids(self.arrow))

    def ref(self, row: int) -> RowRef:
        """Row `row`, as a source for `derived`."""
        return RowRef(self.port, row)

    def __getitem__(self, row: int) -> R:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return marked(next(self.record.from_table(self.arrow.slice(row, 1))), self.ref(row))


class Lookup(Table[R]):
    """A whole input that other rows are compared with or looked up in, such as a test set.

    Its rows that contribute to no output are counted as unused, not as filtered.
    """


class Grouped(Table[R]):
    """A whole input that knows which of its rows come from the same source row, such as paraphrases of one question.

    Attributes:
        groups: a number for each row; rows that share an ancestor have the same number.
    """

    def __init__(self, record: type[R], arrow: pa.Table, port: str = "", groups: Sequence[int] = ()) -> None:
        super().__init__(record, arrow, port)
        self.groups = groups


class Batch(Generic[R]):
    """Annotation for the input of a batch operator: an Arrow table with the columns of the record, and `_row`."""
