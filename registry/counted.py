"""Numbers with their nouns, for messages."""

from __future__ import annotations

from collections.abc import Sized


def counted(things: Sized | float, one: str, many: str = "") -> str:
    """`1 row`, `2,000 rows`, `0.5 CPUs`; `many` is for nouns that take more than an s: `2 entries`."""
    number = things if isinstance(things, int | float) else len(things)
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,g}"
    return f"{shown} {one if number == 1 else many or f'{one}s'}"
