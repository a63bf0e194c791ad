"""Draws rows by their content, so that neither their order nor other rows decide which are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from engine.operator import Record, Table, did_you_mean
from operators.draws import draw


def draw_keys(ids: Sequence[str], *seed: object) -> list[float]:
    """A pseudorandom number for each row, in [0, 1), from its content; equal rows get different numbers.

    Args:
        ids: of the rows.
        seed: further parts of the draw.
    """
    before: Counter[str] = Counter()
    keys = []
    for each in ids:
        keys.append(draw(*seed, each, before[each]))
        before[each] += 1
    return keys


def strata(table: Table[Any], by: Sequence[str]) -> list[str]:
    """The stratum of each row: the values of these fields, as a text; one stratum for all rows without fields."""
    if not by:
        return [""] * len(table)
    columns = [table.arrow.column(name).to_pylist() for name in by]
    return [" / ".join(map(_shown, values)) for values in zip(*columns, strict=True)]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def as_list(by: str | list[str] | None) -> list[str]:
    """The fields of the parameter `by`."""
    return [by] if isinstance(by, str) else list(by or ())


def missing_fields(record: type[Record], by: Sequence[str]) -> list[str]:
    """What is wrong with the parameter `by`."""
    known = list(record.model_fields)
    return [f"by: there is no field {name!r}; {did_you_mean(name, known)}" for name in by if name not in known]
