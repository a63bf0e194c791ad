"""Charts as PNG files. Equal data give equal bytes, because a report's files are identified by their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bar:
    """A value with its interval."""

    value: float
    low: float
    high: float


def save_bars(file: Path, groups: Sequence[str], series: Mapping[str, Sequence[Bar]], title: str, y_label: str) -> None:
    """Draw a bar chart: in each group, one bar with its interval for each series.

    Args:
        file: the PNG file to write.
        groups: the labels along the x axis.
        series: name -> a bar for each group.
        title: the title of the chart.
        y_label: the label of the y axis.
    """
    figure, axes = _axes(max(5.0, 1.2 * len(groups) * len(series)))
    width = 0.8 / len(series)
    for number, (name, bars) in enumerate(series.items()):
        places = [group + (number - (len(series) - 1) / 2) * width for group in range(len(groups))]
        values = [bar.value for bar in bars]
        errors = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
        axes.bar(places, values, width * 0.92, yerr=errors, capsize=3, label=name)
    axes.set_xticks(range(len(groups)), groups, rotation=20 if len(groups) > 4 else 0)
    _finish(figure, axes, file, title, y_label)


def save_lines(file: Path, series: Mapping[str, Sequence[tuple[float, float]]], title: str, x_label: str, y_label: str) -> None:
    """Draw curves.

    Args:
        file: the PNG file to write.
        series: name -> points (x, y).
        title: the title of the chart.
        x_label, y_label: the labels of the axes.
    """
    figure, axes = _axes(6.5)
    for name, points in series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o" if len(points) < 15 else None, label=name)
    axes.set_xlabel(x_label)
    _finish(figure, axes, file, title, y_label)


@dataclass(frozen=True)
class Band:
    """A shaded area between two curves: (x, low, high)."""

    name: str
    points: Sequence[tuple[float, float, float]]


def save_intervals(
    file: Path,
    series: Mapping[str, Sequence[tuple[float, Bar]]],
    title: str,
    x_label: str,
    y_label: str,
    *,
    band: Band | None = None,
    diagonal: str | None = None,
) -> None:
    """Draw measurements with intervals, joined by lines.

    Args:
        file: the PNG file to write.
        series: name -> (x, the measurement at x).
        title: the title of the chart.
        x_label, y_label: the labels of the axes.
        band: a shaded area behind the measurements.
        diagonal: the name of the line y = x; None does not draw it.
    """
    figure, axes = _axes(6.5)
    places = [x for points in series.values() for x, _ in points]
    if diagonal and places:
        ends = [min(places), max(places)]
        axes.plot(ends, ends, color="black", linestyle=":", label=diagonal)
    if band and band.points:
        x, low, high = zip(*band.points, strict=True)
        axes.fill_between(x, low, high, alpha=0.2, color="gray", label=band.name)
    for name, points in series.items():
        values = [bar.value for _, bar in points]
        errors = [[bar.value - bar.low for _, bar in points], [bar.high - bar.value for _, bar in points]]
        axes.errorbar([x for x, _ in points], values, yerr=errors, marker="o", capsize=3, label=name)
    axes.set_xlabel(x_label)
    _finish(figure, axes, file, title, y_label)


def _axes(width: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever backend the user has set
    return figure, figure.add_subplot()


def _finish(figure: Any, axes: Any, file: Path, title: str, y_label: str) -> None:
    axes.set_ylabel(y_label)
    axes.set_title(title)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend()
    figure.savefig(file, dpi=120, metadata={"Software": None})
