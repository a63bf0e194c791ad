"""Charts as `parts.chart` takes them: what charts.js draws, and the columns of the table that says the same."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.page.facts.measures import Chart
from engine.printable import harmless


@dataclass(frozen=True)
class ChartData:
    """A chart for a template: (key of a row of the data, heading) are the columns of its table."""

    title: str
    data: dict[str, Any]
    columns: list[tuple[str, str]]


def curves(chart: Chart) -> ChartData:
    """Curves with their intervals."""
    title, axis = harmless(chart.title), harmless(chart.axis)
    rows = [
        {"series": harmless(curve.name), "x": at.x, "y": at.value, "low": _finite(at.low), "high": _finite(at.high)}
        for curve in chart.curves
        for at in curve.points
    ]
    bounded = any(row["low"] is not None for row in rows)
    data = {"x": axis, "y": title, "rows": rows, "target": [*chart.target], "band": [*chart.band]}
    columns = [("series", "curve"), ("x", axis), ("y", title), *([("low", "low"), ("high", "high")] if bounded else [])]
    return ChartData(f"{title} by {axis}", data, columns)


def bars(title: str, axis: str, rows: Iterable[tuple[str, float]], what: str) -> ChartData:
    """A bar for each row; `what` names the rows."""
    found = [{"name": harmless(name), "value": value} for name, value in rows]
    return ChartData(title, {"x": axis, "rows": found}, [("name", what), ("value", axis)])


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
