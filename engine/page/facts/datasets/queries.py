"""Queries that a user writes: their result as a table or as CSV."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from engine.page.sessions import Reader
from engine.plain_values import json_line, plain
from registry.errors import CorruptError

SECONDS = 60.0
ROWS = 1000
"""Rows that are shown; CSV has all of them."""


@dataclass(frozen=True)
class Answer:
    """The first rows of a query's result; `more` if there are others."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool
    seconds: float
    left_out: tuple[str, ...] = ()


def answer(reader: Reader, query: str) -> Answer:
    """Run a query; raises QueryError, with DuckDB's words, if it cannot be run."""
    began = time.perf_counter()
    with reader.session.stream(query, timeout=SECONDS) as (columns, batches):
        rows = list(islice(chain.from_iterable(batches), ROWS + 1))
    left_out = tuple(reader.session.left_out())
    return Answer(tuple(columns), tuple(rows[:ROWS]), len(rows) > ROWS, time.perf_counter() - began, left_out)


@contextmanager
def csv_lines(reader: Reader, query: str) -> Iterator[Iterator[str]]:
    """The whole result as CSV, piece by piece. Errors before the first rows are raised here."""
    with reader.session.stream(query, timeout=SECONDS) as (columns, batches):
        first: list[tuple[Any, ...]] = next(batches, [])

        def pieces() -> Iterator[str]:
            yield _csv([columns])
            for batch in chain([first], batches):
                yield _csv([[_cell(value) for value in row] for row in batch])
            if left_out := reader.session.left_out():
                raise CorruptError(left_out[0])  # the file ends early, so that it is recognised as incomplete

        yield pieces()


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return json_line(value) if isinstance(value, list | dict) else value if isinstance(value, float) else plain(value)
