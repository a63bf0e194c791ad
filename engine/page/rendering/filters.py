"""How numbers, times and ids are written on pages."""

from __future__ import annotations

import datetime as dt
import math

from markupsafe import Markup

from engine.printable import harmless

_EXACT = 1e15
"""Larger numbers have an exponent."""


def number(value: float | None) -> str:
    """`1,234` or `0.123457`; whole numbers have no fraction and no exponent, whatever their type."""
    return _rounded(value, 6)


def brief(value: float | None) -> str:
    """The same with four digits, for measurements: `0.1235`."""
    return _rounded(value, 4)


def _rounded(value: float | None, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, int) or (value.is_integer() and abs(value) < _EXACT):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if 10**digits <= abs(value) < _EXACT else f"{value:,.{digits}g}"


def dollars(value: float | None) -> str:
    """`$1.23`, or with more digits when it is small: `$0.0041`."""
    if not value:
        return ""
    return f"${value:,.2f}" if value >= 1 else f"${value:.4f}" if value >= 0.0001 else "<$0.0001"


def seconds(value: float | None) -> str:
    """`0.31 s`, `45 s`, `3 min 20 s`, `2 h 5 min`."""
    if value is None:
        return ""
    if value < 10:
        return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(value: int | None) -> str:
    """Bytes: `512 B`, `1.4 MB`."""
    if value is None:
        return ""
    amount, unit = float(value), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{value} B" if unit == "B" else f"{amount:.3g} {unit}"


def moment(value: dt.datetime | None) -> Markup:
    """A time element, `2026-03-01 14:05`; the seconds are in its title."""
    if value is None:
        return Markup("")
    utc = value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc:%Y-%m-%d %H:%M:%S}", f"{utc:%Y-%m-%d %H:%M}"
    )


def shown(value: object) -> object:
    """The value of every expression in a template: text with its control characters as escapes, and nothing for None."""
    if value is None:
        return ""
    return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def exact(text: str) -> Markup:
    """A text with its control characters, for fields that are sent back; its HTML is escaped all the same."""
    return Markup.escape(text)


FILTERS = {
    "number": number,
    "brief": brief,
    "dollars": dollars,
    "seconds": seconds,
    "size": size,
    "moment": moment,
    "exact": exact,
}
