"""What operators have counted and measured, in words."""

from __future__ import annotations

from collections.abc import Sequence

from registry import Metric

_SLICES_SHOWN = 8
"""The maximum number of slices of a counter that are shown; counters with more are only in SQL."""
_NUMBERS_SHOWN = 16
"""The maximum number of a step's metrics that are shown."""


def metrics_in_words(metrics: Sequence[Metric]) -> list[str]:
    """Counters and measures by slice, as many as fit on a few lines; counters of 0 and bounds of intervals are only in SQL."""
    found: dict[str, list[Metric]] = {}
    for metric in metrics:
        if metric.slice and not metric.slice.startswith("step ") and not metric.metric.endswith(("_ci_low", "_ci_high")):
            found.setdefault(metric.metric, []).append(metric)
    parts, room = [], _NUMBERS_SHOWN
    for name, slices in found.items():
        values = [f"{_short(each.value)} {each.slice}" for each in slices if each.value or not _are_counters(slices)]
        if len(values) <= min(room, _SLICES_SHOWN):
            parts.append(f"{name}: {', '.join(values)}")
            room -= len(values)
    return parts


def _are_counters(slices: Sequence[Metric]) -> bool:
    """Whether numbers count something, as opposed to shares, of which 0 is as good as any other."""
    return all(each.value.is_integer() for each in slices) and max(each.value for each in slices) > 1


def _short(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
