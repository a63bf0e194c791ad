"""How results are printed: as tables, or as JSON."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from engine.plain_values import json_line
from engine.printable import harmless

if TYPE_CHECKING:
    from registry import QueryResult

CELL = 60
"""Characters of a cell that are shown, at most."""


class SafeConsole(Console):
    """A console that prints text literally, including `[red]` and `:smile:`, and shows control characters as escapes."""

    def __init__(self, *, stderr: bool = False) -> None:
        width = None if (sys.stderr if stderr else sys.stdout).isatty() else 160
        # A notebook gets plain lines: rich would make an output of its own for each of them.
        super().__init__(
            stderr=stderr, width=width, force_jupyter=False, highlight=False, markup=False, emoji=False, soft_wrap=False
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """See rich.console.Console."""
        return super().render_str(harmless(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See rich.console.Console. Everything that is printed passes through here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


def stdout_console() -> Console:
    """The console for results."""
    return SafeConsole()


def stderr_console() -> Console:
    """The console for progress."""
    return SafeConsole(stderr=True)


def grid(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, cell: int | None = CELL, counts: bool = False) -> Table:
    """A plain table: numbers aligned right, long cells shortened to `cell` characters.

    With `counts`, integers are numbers of things and are printed as `2,000`. Elsewhere they may be years or ids.
    """
    rows = [list(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[place], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold" if cell is None else "ellipsis")
    for row in rows:
        table.add_row(*(cell_text(f"{value:,}" if counts and isinstance(value, int) else value, cell) for value in row))
    return table


def cell_text(value: Any, limit: int | None = CELL) -> str:
    """A value as one line of text, shortened to `limit` characters."""
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, dt.datetime):
        text = value.isoformat(sep=" ", timespec="seconds")
    elif isinstance(value, list | dict):
        text = json_line(value)
    else:
        text = str(value)
    text = harmless(text.replace("\r\n", "⏎").replace("\n", "⏎"))
    return text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"


def records(answer: QueryResult) -> list[dict[str, Any]]:
    """A query's result as a list of objects."""
    names: list[str] = []
    for column in answer.columns:
        # Columns of the same name get a number.
        count = sum(name == column or name.startswith(f"{column}_") for name in names)
        names.append(f"{column}_{count}" if column in names else column)
    return [dict(zip(names, row, strict=True)) for row in answer.rows]
