"""Cells of the grid: their names in metrics, what they are for, and shares by cell."""

from __future__ import annotations

from typing import Literal

from engine.operator import Metric
from operators.intervals import wilson

Kind = Literal["conflict", "ike", "closed_book"]
"""Of a cell: poisoned contexts; only factual ones, as in knowledge editing (IKE); none."""


def cell_name(pcn: int, fc: bool) -> str:
    """A cell as metrics name it."""
    return f"pcn={pcn} fc={'yes' if fc else 'no'}"


def cell_of(name: str) -> tuple[int, bool]:
    """(pcn, fc) of a cell's name."""
    pcn, fc = name.split()
    return int(pcn.removeprefix("pcn=")), fc == "fc=yes"


def kind_of(pcn: int, fc: bool) -> Kind:
    """What a cell is for."""
    if pcn:
        return "conflict"
    return "ike" if fc else "closed_book"


def share(metric: str, part: str, successes: float, trials: float) -> list[Metric]:
    """A share and its interval (Wilson, 95 %): `metric`, `metric_ci_low`, `metric_ci_high`; nothing without trials."""
    if not trials:
        return []
    low, high = wilson(successes, trials)
    named = {metric: successes / trials, f"{metric}_ci_low": low, f"{metric}_ci_high": high}
    return [Metric(metric=name, slice=part, value=value) for name, value in named.items()]
