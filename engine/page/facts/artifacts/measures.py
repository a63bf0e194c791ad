"""Metrics of a version as numbers, and as curves over what their slices count.

A slice such as `step 100` or `alpha=0.1` is a place on an axis; a metric with at least two such places is a curve.
`NAME_ci_low` and `NAME_ci_high` are the interval of NAME. Around the curves of NAME, `NAME_target` is where they should be, and
`NAME_band_low` and `NAME_band_high` say how far from it they may be by chance. `PREFIX_NAME` is another curve in the chart of
NAME.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from registry import Metric

_LOW, _HIGH = "_ci_low", "_ci_high"
_AROUND = _TARGET, _BAND_LOW, _BAND_HIGH = "_target", "_band_low", "_band_high"
_PLACE = re.compile(r"(?P<axis>[A-Za-z_][\w .-]{0,40}?)(?:=| )(?P<at>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_MOST_POINTS = 1000
"""Points of a curve; longer ones are thinned out."""


@dataclass(frozen=True)
class Measure:
    """A number, with its interval if it has one."""

    metric: str
    slice: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """A measure at a place of an axis."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Curve:
    """A line of a chart; `left_out` counts points that are not drawn."""

    name: str
    points: tuple[Point, ...]
    left_out: int = 0


@dataclass(frozen=True)
class Chart:
    """Curves of one metric over one axis.

    Args:
        target: (x, y), where the curves should be.
        band: (x, low, high), how far from that they may be by chance.
    """

    title: str
    axis: str
    curves: tuple[Curve, ...]
    target: tuple[tuple[float, float], ...] = ()
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Measures:
    """What was measured: single numbers, and charts."""

    numbers: tuple[Measure, ...]
    charts: tuple[Chart, ...]


def measures(metrics: Iterable[Metric]) -> Measures:
    """The metrics of a version, in the order in which they were reported."""
    found = with_intervals(metrics)
    curves: defaultdict[tuple[str, str], list[tuple[Point, Measure]]] = defaultdict(list)
    for each in found:
        if (at := _place(each.slice)) and math.isfinite(each.value):
            curves[at[0], each.metric].append((Point(at[1], each.value, each.low, each.high), each))
    several = {key for key, points in curves.items() if len({point.x for point, _ in points}) > 1}
    # One point is enough if there is a curve of its target.
    bounded = {(axis, name) for axis, name in curves if any((axis, name + suffix) in several for suffix in _AROUND)}
    drawn = {key: points for key, points in curves.items() if key in several | bounded}
    in_curves = {id(each) for points in drawn.values() for _, each in points}
    charts = []
    for axis in dict.fromkeys(axis for axis, _ in drawn):
        lines = {
            metric: _curve(metric, [point for point, _ in points]) for (own, metric), points in drawn.items() if own == axis
        }
        charts += _charts(axis, lines)
    return Measures(tuple(each for each in found if id(each) not in in_curves), tuple(charts))


def with_intervals(metrics: Iterable[Metric]) -> list[Measure]:
    """Metrics, each with its interval."""
    raw = {(each.metric, each.slice): each.value for each in metrics}
    return [
        Measure(metric, part, value, raw.get((metric + _LOW, part)), raw.get((metric + _HIGH, part)))
        for (metric, part), value in raw.items()
        if not (metric.endswith((_LOW, _HIGH)) and (metric.removesuffix(_LOW).removesuffix(_HIGH), part) in raw)
    ]


def _place(part: str) -> tuple[str, float] | None:
    found = _PLACE.fullmatch(part)
    return (found["axis"].strip(), float(found["at"])) if found and math.isfinite(float(found["at"])) else None


def _curve(name: str, points: Sequence[Point]) -> Curve:
    ordered = sorted(points, key=lambda point: point.x)
    stride = max(1, math.ceil(len(ordered) / _MOST_POINTS))
    kept = tuple(point for place, point in enumerate(ordered) if place % stride == 0 or place == len(ordered) - 1)
    return Curve(name, kept, len(ordered) - len(kept))


def _charts(axis: str, lines: Mapping[str, Curve]) -> list[Chart]:
    """One chart for each metric of an axis; those that belong to another metric are in its chart."""
    extras = {
        name: suffix for name in lines for suffix in _AROUND if name.removesuffix(suffix) in lines and name.endswith(suffix)
    }
    plain = [name for name in lines if name not in extras]
    homes: dict[str, str] = {}
    for name in plain:
        # The longest metric that it ends with, so that `a_b_ecr` goes to `b_ecr` only if there is one of its own.
        others = [other for other in plain if other != name and name.endswith(f"_{other}")]
        homes[name] = max(others, key=len) if others else name
    found = []
    for name in plain:
        if homes[name] != name:
            continue
        inside = [name, *(other for other in plain if other != name and _home(other, homes) == name)]
        target = lines.get(name + _TARGET) if name + _TARGET in extras else None
        low, high = (lines.get(name + suffix) if name + suffix in extras else None for suffix in (_BAND_LOW, _BAND_HIGH))
        highs = {point.x: point.value for point in high.points} if high else {}
        found.append(
            Chart(
                name,
                axis,
                tuple(Curve(_label(each, name), lines[each].points, lines[each].left_out) for each in inside),
                tuple((point.x, point.value) for point in target.points) if target else (),
                tuple((point.x, point.value, highs[point.x]) for point in (low.points if low else ()) if point.x in highs),
            )
        )
    return found


def _home(name: str, homes: Mapping[str, str]) -> str:
    while homes[name] != name:
        name = homes[name]
    return name


def _label(name: str, chart: str) -> str:
    return name if name == chart else name.removesuffix(f"_{chart}").replace("_", " ")
