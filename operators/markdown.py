"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; columns of numbers are right-aligned."""
    rows = [list(row) for row in rows]
    numeric = [all(isinstance(row[place], int | float) for row in rows) for place in range(len(columns))]
    lines = [columns, ["---:" if each else "---" for each in numeric], *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
