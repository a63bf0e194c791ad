"""What operators have counted and measured, in words."""

from __future__ import annotations

from collections.abc import Sequence

from registry import Metric

_SLICES_SHOWN = 8
"""The most slices of a counter that are shown; counters with more are only in SQL."""
_NUMBERS_SHOWN = 16
"""The most numbers of a step that are shown."""


def metrics_in_words(metrics: Sequence[Metric]) -> list[str]:
    """Counters and measures by slice, as many as fit on a few lines; bounds of intervals are only in SQL."""
    counted: dict[str, list[str]] = {}
    for metric in metrics:
        if metric.slice and not metric.slice.startswith("step ") and not metric.metric.endswith(("_ci_low", "_ci_high")):
            counted.setdefault(metric.metric, []).append(f"{_short(metric.value)} {metric.slice}")
    parts, room = [], _NUMBERS_SHOWN
    for name, values in counted.items():
        if len(values) <= min(room, _SLICES_SHOWN):
            parts.append(f"{name}: {', '.join(values)}")
            room -= len(values)
    return parts


def _short(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
