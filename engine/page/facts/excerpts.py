"""Values of rows as text of a bounded length."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONG = 20_000
"""Characters of a value where it is read."""
SHORT = 120
"""Characters of a value where it is only recognised."""


@dataclass(frozen=True)
class Excerpt:
    """The start of a text, and how many characters were left out."""

    text: str
    left_out: int = 0


def excerpt(value: Any, most: int = LONG) -> Excerpt:
    """A value as text: strings as they are, everything else as JSON."""
    text = value if isinstance(value, str) else as_json(value)
    return Excerpt(text[:most], max(0, len(text) - most))


def as_json(value: Any) -> str:
    """A value as JSON; values that JSON does not have become texts."""
    return json.dumps(value, ensure_ascii=False, default=_other)


def one_line(record: Mapping[str, Any], most: int = SHORT) -> str:
    """The fields of a row that are not empty, as far as they fit on a line."""
    parts = []
    room = most
    for name, value in record.items():
        if value in (None, "", []):
            continue
        # No more of a long text is looked at than is shown.
        text = " ".join(excerpt(value, room + SHORT).text.split())
        parts.append(f"{name}: {text}")
        room -= len(parts[-1]) + 3
        if room <= 0:
            break
    line = " · ".join(parts)
    return line if len(line) <= most else line[: most - 1] + "…"


def _other(value: Any) -> str:
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)
