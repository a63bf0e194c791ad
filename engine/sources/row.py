"""A row of a source before it is typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_ROW_BYTES = 64 << 20
"""The maximum size of a row in its file, in bytes."""


@dataclass(frozen=True)
class Row:
    """A row of a source before it is typed.

    Attributes:
        where: the location of the row, such as `rows.jsonl:3`.
        fields: the values of the row; None if it cannot be read.
        error: why it cannot be read.
        size: the approximate size of the row in bytes.
        unread: columns that are not wanted and were not read.
    """

    where: str
    fields: dict[str, Any] | None = None
    error: str = ""
    size: int = 0
    unread: frozenset[str] = field(default=frozenset())
