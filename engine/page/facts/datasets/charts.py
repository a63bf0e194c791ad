"""How the values of a version's columns are distributed: lengths of texts and lists, numbers, categories, nulls."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from engine.page.facts.datasets.rows import column_names, quoted
from engine.page.sessions import Reader
from engine.plain_values import json_line
from registry import Manifest
from registry.records.arrays import numbers_of

if TYPE_CHECKING:
    import numpy.typing as npt

COLUMNS = 40
"""Columns that are charted; others have no chart."""

_BINS = 32
_CATEGORIES = 24
"""The most values of a column that are counted one by one."""
_SECONDS = 60.0

_CHAT = re.compile(r"list\[\{role: str\??, content: str\??\W")
_TURNS = re.compile(r"list\[\{role: str\??, content: ")

Measure = Literal["characters", "items", "turns", "value", "characters of all turns", "characters of the last answer"]


_OF_CHATS: tuple[Measure, ...] = ("characters of all turns", "characters of the last answer")


@dataclass(frozen=True)
class Bin:
    """The rows whose measure is at least `start` and below `stop` (the last bin: at most)."""

    start: float
    stop: float
    count: int


@dataclass(frozen=True)
class Category:
    """A value, and how many rows have it."""

    value: str
    count: int


@dataclass(frozen=True)
class Column:
    """What is known about a column.

    Args:
        type: as the registry writes it.
        distinct: about how many different values it has; None where they are not counted.
        measure: what `least` to `bins` are about: characters of texts, items of lists, turns of conversations, or the value.
        bins: how the measure is distributed, up to `drawn` when few rows have far more.
        categories: the values, the most frequent first, if there are few.
        more: other measures of the same column.
    """

    name: str
    type: str
    rows: int
    nulls: int
    distinct: int | None
    measure: Measure | None
    least: float | None = None
    most: float | None = None
    mean: float | None = None
    median: float | None = None
    drawn: float | None = None
    bins: tuple[Bin, ...] = ()
    categories: tuple[Category, ...] = ()
    more: tuple[Column, ...] = ()


def columns(reader: Reader, manifest: Manifest) -> tuple[Column, ...]:
    """The columns of a version, at most COLUMNS. They never change, so they are kept."""
    found: tuple[Column, ...] = reader.kept.facts.get(
        ("charts", manifest.version_id), lambda: tuple(_columns(reader, manifest))
    )
    return found


def _columns(reader: Reader, manifest: Manifest) -> Iterator[Column]:
    named = [(name, manifest.fields[name]) for name in column_names(reader, manifest)[:COLUMNS]]
    if not named or not manifest.rows:
        return
    target = quoted(str(manifest.ref))
    kinds = [_measured(label) for _, label in named]
    # One pass over the rows reads every measure; a second counts nulls and different values.
    asked = [f"{_expression(name, kind)} as m{place}" for place, ((name, _), kind) in enumerate(zip(named, kinds, strict=True))]
    chats = [place for place, (_, label) in enumerate(named) if _CHAT.match(label)]
    asked += [f"{_expression(named[place][0], kind)} as m{place}_{at}" for place in chats for at, kind in enumerate(_OF_CHATS)]
    measures = reader.session.arrow(f"select {', '.join(asked)} from {target}", timeout=_SECONDS)
    counted = ", ".join(
        f"count({quoted(name)})" + (f", approx_count_distinct({quoted(name)})" if _countable(label) else ", null")
        for name, label in named
    )
    [counts] = reader.session.ask(f"select {counted} from {target}", timeout=_SECONDS).rows
    for place, ((name, label), kind) in enumerate(zip(named, kinds, strict=True)):
        present, distinct = counts[2 * place : 2 * place + 2]
        few = distinct is not None and distinct <= _CATEGORIES * 1.2
        column = _column(
            name,
            label,
            manifest.rows,
            int(present),
            distinct,
            kind,
            measures.column(place) if kind else None,
            _categories(reader, target, name) if few else (),
        )
        more = [
            _column(name, label, manifest.rows, int(present), None, other, measures.column(f"m{place}_{at}"), ())
            for at, other in enumerate(_OF_CHATS if place in chats else ())
        ]
        yield replace(column, more=tuple(more))


def _measured(label: str) -> Measure | None:
    kind = label.rstrip("?")
    if kind == "str" or "|" in kind:
        return "characters"
    if kind in ("int", "float"):
        return "value"
    if kind.startswith("list["):
        return "turns" if _TURNS.match(kind) else "items"
    return None


def _countable(label: str) -> bool:
    return label.rstrip("?") in ("str", "int", "bool", "float", "datetime", "date") or "|" in label


def _expression(name: str, kind: Measure | None) -> str:
    column = quoted(name)
    return {
        "characters": f"length({column})",
        "items": f"len({column})",
        "turns": f"len({column})",
        "value": column,
        "characters of all turns": f"list_sum([length(turn.content) for turn in {column}])",
        "characters of the last answer": f"length([turn.content for turn in {column} if turn.role = 'assistant'][-1])",
    }.get(kind or "", "null")


def _categories(reader: Reader, target: str, name: str) -> tuple[Category, ...]:
    column = quoted(name)
    query = f"select {column}, count(*) from {target} where {column} is not null group by 1 order by 2 desc, 1 limit ?"
    found = reader.session.ask(query, [_CATEGORIES + 1], timeout=_SECONDS).rows
    return () if len(found) > _CATEGORIES else tuple(Category(_written(value), int(count)) for value, count in found)


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json_line(value) if isinstance(value, bool) else str(value)


def _column(
    name: str,
    label: str,
    rows: int,
    present: int,
    distinct: int | None,
    kind: Measure | None,
    measure: pa.ChunkedArray | None,
    categories: tuple[Category, ...],
) -> Column:
    distinct = len(categories) if categories else min(distinct, present) if distinct is not None else None
    values = numbers_of(measure.drop_null().cast(pa.float64())) if measure is not None else np.empty(0)
    values = values[np.isfinite(values)]
    plain = Column(name, label, rows, rows - present, distinct, kind, categories=categories)
    if kind is None or not len(values):
        return plain
    drawn = float(np.percentile(values, 99)) if kind != "value" else float(values.max())
    drawn = drawn if values.max() > 3 * max(drawn, 1) else float(values.max())
    return replace(
        plain,
        least=float(values.min()),
        most=float(values.max()),
        mean=float(values.mean()),
        median=float(np.median(values)),
        drawn=drawn,
        bins=_bins(values[values <= drawn], whole=kind != "value" or label.rstrip("?") == "int"),
    )


def _bins(values: npt.NDArray[np.float64], *, whole: bool) -> tuple[Bin, ...]:
    """At most _BINS ranges of a round width; of whole numbers when the measure is one."""

    low, high = float(values.min()), float(values.max())
    if low == high:
        return (Bin(low, low + 1 if whole else low, len(values)),)
    width = _round_up((high - low) / _BINS)
    width = max(1.0, math.ceil(width)) if whole else width
    first = math.floor(low / width)
    last = max(first + 1, math.floor(high / width) + 1)
    edges = np.arange(first, last + 1) * width
    counts, _ = np.histogram(values, bins=edges)
    return tuple(
        Bin(float(start), float(stop), int(count)) for start, stop, count in zip(edges, edges[1:], counts, strict=False)
    )


def _round_up(width: float) -> float:
    """The next of 1, 2, 2.5, 5 and 10, times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= width * (1 - 1e-9))
