"""Problems found in a source while its rows are read, and how they are reported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from engine.causes import cause_of
from engine.errors import Problem, did_you_mean, wrong_value
from engine.sources.recognition import how_to_fit
from engine.spec.pipeline_spec import DatasetSpec
from registry import Record
from registry.counted import counted

SHOWN_ERRORS = 20

SHOWN_OF_A_CAUSE = 3
"""Different errors with the same cause that are shown."""


@dataclass
class _Bad:
    """Rows with the same error, or with the same cause.

    Args:
        error: that of the first row.
        same: whether all of them have it.
    """

    error: str
    first: str
    last: str
    count: int = 1
    same: bool = True

    def add(self, where: str, error: str) -> None:
        self.count += 1
        self.last = where
        self.same &= error == self.error

    def __str__(self) -> str:
        if self.count == 1:
            return self.first
        more = "another row has" if self.count == 2 else f"{self.count - 1:,} more rows have"
        what = "the same error" if self.same else "an error like this"
        return f"{self.first} ({more} {what}, the last is {self.last})"


@dataclass
class Findings:
    """The problems found while rows were validated; `errors` has those that are shown, by cause."""

    rows: int = 0
    images: set[str] = field(default_factory=set)
    ignored: Counter[str] = field(default_factory=Counter)
    columns: set[str] = field(default_factory=set)
    errors: dict[str, list[_Bad]] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    excluded: int = 0
    bad: int = 0
    shown: int = 0
    cut: bool = False

    def wrong(self, where: str, error: str) -> None:
        """Note a row that does not fit."""
        self.bad += 1
        cause = cause_of(error)
        alike = self.errors.get(cause, [])
        if same := next((bad for bad in alike if bad.error == error), None):
            same.add(where, error)
        elif len(alike) < SHOWN_OF_A_CAUSE and sum(map(len, self.errors.values())) < SHOWN_ERRORS:
            self.errors[cause] = [*alike, _Bad(error, where, where)]
        elif alike:
            alike[-1].add(where, error)
        else:
            return
        self.shown += 1


def problems_of(name: str, spec: DatasetSpec, record: type[Record], found: Findings, *, complete: bool) -> list[Problem]:
    """The problems of a source after its rows were validated; `complete`: all of them were."""
    problems = [Problem(f"{bad}: not a {record.type_name()}: {bad.error}") for bad in chain(*found.errors.values())]
    if found.bad > found.shown:
        problems.append(Problem(f"... and {counted(found.bad - found.shown, 'more row')} of {name!r}"))
    if problems:
        declare = "the type was taken from the first rows; declare one under types: that fits"
        fix = "fix the rows, map columns with `rename`" if spec.type else declare
        if spec.images and not spec.image_folder:
            fix += ", name the folder of the images with `image_folder`"
        hint = f"{fix}, or continue without these rows: `on_error: skip`"
        hint += f"\n{known}" if found.bad == found.rows and (known := how_to_fit(record)) else ""
        problems[-1] = Problem(problems[-1].message, hint=hint)
    taken = found.rows - found.bad - len(found.rejects)
    if complete and found.rows and found.columns:
        for column in spec.rename.keys() - found.columns:
            known = did_you_mean(column, found.columns)
            problems.append(Problem(f"rename: {name!r} has no column {column!r}", hint=known))
    if complete and not problems and not taken and not found.excluded and not spec.allow_empty:
        where = spec.path or spec.hf or spec.generator
        why = f"{where} has no rows"
        if found.rejects:
            why = f"of {counted(found.rejects, 'row')} in {where}, none fits: {found.rejects[0]['reason']}"
        hint = "if that is intended, set `allow_empty: true`"
        hint += f"\n{known}" if found.rejects and (known := how_to_fit(record)) else ""
        problems.append(Problem(f"dataset {name!r} is empty: {why}", hint=hint))
    return problems


def explained(error: Any, columns: list[str]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        if len(error["loc"]) > 1:
            return f"{where} is missing"
        shown = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
        close = did_you_mean(where, columns, " ").strip()
        return f"{where} is missing; the row has {shown or 'no values'}" + (f" ({close})" if close else "")
    given = error.get("input")
    shown = f" (given: {given!r:.60})" if not isinstance(given, dict) else ""
    return f"{where}: {wrong_value(error)}{shown}"
