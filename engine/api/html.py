"""Tables for notebooks. Text in a registry is untrusted, so none of it is interpreted as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.cli.output import cell_text

_CELL = 200
"""Characters of a cell that are shown, at most."""


def escaped(value: Any, limit: int | None = _CELL) -> str:
    """A value as one line of text that HTML shows as it is."""
    return html.escape(cell_text(value, limit))


def table(caption: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], note: str = "") -> str:
    """A table with a line above it and a note below it."""
    head = "".join(f"<th style='text-align: left'>{escaped(column)}</th>" for column in columns)
    lines = ["".join(_cell(row.get(column)) for column in columns) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    below = f"<div>{escaped(note, None)}</div>" if note else ""
    return (
        f"<div><b>{escaped(caption, None)}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"
    )


def _cell(value: Any) -> str:
    return f"<td style='text-align: left; vertical-align: top'>{escaped(value)}</td>"
