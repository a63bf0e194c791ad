"""The forecast of a run, for people and as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.cli.output import grid
from engine.previewing.results import Forecast, Interval, StepForecast
from engine.printable import duration

if TYPE_CHECKING:
    from rich.console import Console

_AMOUNTS = ("rows", "calls", "tokens_in", "tokens_out", "cost_usd", "seconds")


def forecast_document(forecast: Forecast) -> dict[str, Any]:
    """A forecast as data."""
    return {
        "steps": [{"step": each.name, "op": each.op, **step_document(each)} for each in forecast.steps],
        **{name: _interval(getattr(forecast, name)) for name in ("calls", "tokens", "cost_usd", "seconds")},
        "unknown": list(forecast.unknown),
        "notes": list(forecast.notes),
    }


def step_document(step: StepForecast) -> dict[str, Any]:
    """The forecast of a step as data: each amount with its 80 % interval, or null."""
    return {name: _interval(getattr(step, name)) for name in _AMOUNTS} | {"basis": step.basis}


def _interval(amount: Interval | None) -> dict[str, float] | None:
    return None if amount is None else {name: round(value, 6) for name, value in amount._asdict().items()}


def print_forecast(forecast: Forecast, console: Console) -> None:
    """Print a forecast as a table, with its sums."""
    rows = [
        [
            each.name,
            _shown(each.rows, _count),
            _shown(each.calls, _count),
            _shown(_sum(each.tokens_in, each.tokens_out), _count),
            _shown(each.cost_usd, _dollars),
            _shown(each.seconds, duration),
            each.basis or ("not known" if each.name in forecast.unknown else ""),
        ]
        for each in forecast.steps
    ]
    sums = [_shown(forecast.calls, _count), _shown(forecast.tokens, _count)]
    rows.append(["in all", "", *sums, _shown(forecast.cost_usd, _dollars), _shown(forecast.seconds, duration), ""])
    console.print("\nForecast of the run, beyond the answers in the journal (expected value and 80 % interval):")
    console.print(grid(["step", "rows", "calls", "tokens", "price", "time", "from"], rows, cell=None))
    if forecast.unknown:
        console.print(f"Not in the sums: {', '.join(forecast.unknown)}.", soft_wrap=True)
    for note in forecast.notes:
        console.print(f"Note: {note}.", soft_wrap=True)


def _sum(one: Interval | None, other: Interval | None) -> Interval | None:
    """The sum of two amounts that rise and fall together."""
    return Interval(*(a + b for a, b in zip(one, other, strict=True))) if one and other else None


def _shown(amount: Interval | None, text: Callable[[float], str]) -> str:
    if amount is None:
        return "?"
    if not amount.high:
        return ""
    low, high = text(amount.low), text(amount.high)
    return text(amount.expected) if low == high else f"{text(amount.expected)} ({low} to {high})"


def _count(number: float) -> str:
    """A number with three digits: a forecast is not more exact."""
    if number < 1000:
        return f"{number:.0f}"
    return f"{float(f'{number:.3g}'):,.0f}"


def _dollars(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 1 else f"${amount:.2g}"
