"""Rows and columns of a dataset, in the form for templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from engine.page.facts.datasets.charts import Column
from engine.page.facts.datasets.rows import Row
from engine.page.links import Links
from engine.page.rendering.values import Style, one_line, show
from registry import Manifest

_CELL = 240
"""Characters of a cell of a table."""


@dataclass(frozen=True)
class RowView:
    """A row as HTML: its number, the address of its page, and its values by column."""

    number: int
    address: str
    cells: tuple[tuple[str, Markup | str, bool], ...]
    """Name, value, and whether it is a number."""


def row_view(row: Row, names: Sequence[str], look: str, links: Links, manifest: Manifest) -> RowView:
    """A row.

    Args:
        look: `table`: each value on one line; `text`: texts as they are; `markdown`: texts as Markdown.
    """
    style = Style(markdown=look == "markdown", whole=partial(links.value, manifest.name, manifest.version, row.number))

    def cell(name: str) -> tuple[str, Markup | str, bool]:
        value = row.values[name]
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        return name, one_line(value, _CELL) if look == "table" else show(value, style, name), numeric

    return RowView(row.number, links.row(manifest.name, manifest.version, row.number), tuple(map(cell, names)))


@dataclass(frozen=True)
class Chart:
    """A chart for charts.js, and the columns of the table with the same numbers."""

    kind: str
    title: str
    data: dict[str, Any]
    columns: tuple[tuple[str, str], ...]


_WORDS = {
    "characters": "characters of {}",
    "items": "items of {}",
    "turns": "turns of {}",
    "value": "{}",
    "characters of all turns": "characters of all turns of {}",
    "characters of the last answer": "characters of the last answer of {}",
}


def evenly(column: Column) -> int | None:
    """How often each value occurs, if they all occur equally often, which needs no bars; None if they do not."""
    counts = {each.count for each in column.categories}
    return min(counts) if _repeats(column) and len(counts) == 1 else None


def drawn(column: Column) -> list[Chart]:
    """The charts of a column."""
    return [*_drawn(column), *(chart for more in column.more for chart in _drawn(more))]


def _drawn(column: Column) -> list[Chart]:
    charts = []
    if _repeats(column) and evenly(column) is None:
        categories = column.categories
        if column.measure == "value":
            categories = tuple(sorted(categories, key=lambda each: float(each.value)))
        rows = [{"name": _named(each.value), "value": each.count} for each in categories]
        charts.append(
            Chart("bars", f"{column.name}: values", {"x": "rows", "rows": rows}, (("name", column.name), ("value", "rows")))
        )
    elif column.bins and column.least != column.most and (evenly(column) is None or column.measure == "characters"):
        label = _WORDS[column.measure or "value"].format(column.name)
        bins = [{"from": each.start, "to": each.stop, "value": each.count} for each in column.bins]
        beyond = (
            f", up to {column.drawn:,.6g}" if column.drawn is not None and column.most and column.drawn < column.most else ""
        )
        data = {"x": label, "y": "rows", "rows": bins}
        charts.append(Chart("histogram", f"{label}{beyond}", data, (("from", "from"), ("to", "to"), ("value", "rows"))))
    return charts


def _named(value: str) -> str:
    text = one_line(value, 80)
    return text or "(empty)"


def _repeats(column: Column) -> bool:
    """Whether its values are categories: a few that occur again and again."""
    present = column.rows - column.nulls
    return 1 < len(column.categories) <= max(2, present / 2) and column.measure not in ("items", "turns")
