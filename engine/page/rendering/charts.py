"""Charts of measurements, in the form for templates."""

from __future__ import annotations

import math
from collections.abc import Iterable

from engine.page.facts.artifacts.measures import Chart as Measured
from engine.page.rendering.datasets import Chart
from engine.printable import harmless


def curves(chart: Measured) -> Chart:
    """Curves with their intervals."""
    title, axis = harmless(chart.title), harmless(chart.axis)
    rows = [
        {"series": harmless(curve.name), "x": at.x, "y": at.value, "low": _finite(at.low), "high": _finite(at.high)}
        for curve in chart.curves
        for at in curve.points
    ]
    bounded = any(row["low"] is not None for row in rows)
    data = {"x": axis, "y": title, "rows": rows, "target": [*chart.target], "band": [*chart.band]}
    columns = (("series", "curve"), ("x", axis), ("y", title), *((("low", "low"), ("high", "high")) if bounded else ()))
    return Chart("lines", f"{title} by {axis}", data, columns)


def bars(title: str, axis: str, rows: Iterable[tuple[str, float]], what: str) -> Chart:
    """A bar for each row; `what` names the rows."""
    found = [{"name": harmless(name), "value": value} for name, value in rows]
    return Chart("bars", title, {"x": axis, "rows": found}, (("name", what), ("value", axis)))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
