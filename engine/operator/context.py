"""What an operator gets besides rows, models and parameters: seeded randomness, counters, a scratch folder."""

from __future__ import annotations

import logging
import math
import random
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

from engine.operator.images import ImageError, image_part
from engine.operator.types import DeclarationError
from engine.provenance import RowRef
from registry import Metric, StoredFile
from registry.storage.valid_text import repaired


class Reject(Exception):  # noqa: N818  (it is an outcome, not an error of the program)
    """Raised by an operator for a row that it cannot use. The row goes to the step's rejects with the reason."""


@dataclass
class Tally:
    """The numbers and texts that an operator reports, summed over a partition."""

    counts: dict[tuple[str, str], float] = field(default_factory=dict)
    values: dict[tuple[str, str], float] = field(default_factory=dict)
    seen: dict[RowRef, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add the contents of another tally."""
        for key, value in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + value
        self.values |= other.values
        self.seen |= other.seen
        self.notes += other.notes

    def metrics(self) -> tuple[tuple[Metric, ...], tuple[Metric, ...]]:
        """(counters, which are summed over partitions; values, which are not)."""
        counts = (Metric(metric=metric, slice=part, value=value) for (metric, part), value in sorted(self.counts.items()))
        values = (Metric(metric=metric, slice=part, value=value) for (metric, part), value in self.values.items())
        return tuple(counts), tuple(values)


@dataclass(frozen=True)
class Context:
    """The operator's view of the engine: an argument annotated `Context` gets one.

    Attributes:
        log: a logger for the people who run the pipeline; it writes to the run's log file.
        device: the resources of each device, in Ray's words (`CPU`, `GPU`); see `Params.device_count`.
    """

    log: logging.Logger
    device: Mapping[str, float]
    _seed: Callable[[], int]
    _folder: Callable[[], Path]
    _lasting: Path
    _tally: Tally
    _keep: Callable[[Path], list[StoredFile]]
    _read: Callable[[str], bytes]
    _progress: Callable[[int, int, str], None]
    _rejects: list[str] = field(default_factory=list)
    _row_rejects: dict[int, str] | dict[RowRef, str] | None = None

    @cached_property
    def random(self) -> random.Random:
        """A random generator. Its seed comes from the pipeline's seed, the operator and the row's content, so the order of rows
        and the number of workers make no difference.
        """
        return random.Random(self._full_seed)

    @property
    def seed(self) -> int:
        """A seed like that of `random`, below 2**31, for libraries with their own generators."""
        return self._full_seed % 2**31

    @cached_property
    def _full_seed(self) -> int:
        return self._seed()

    @cached_property
    def scratch(self) -> Path:
        """An empty folder for this row (or step). It is removed afterwards."""
        return Path(tempfile.mkdtemp(dir=self._folder()))

    @cached_property
    def checkpoints(self) -> Path:
        """A folder that survives a crash: files that an operator on whole inputs left in it are there when the step runs again.

        It belongs to the step with exactly these inputs, parameters and code, and is removed when the step is done.
        """
        self._lasting.mkdir(parents=True, exist_ok=True)
        return self._lasting

    def count(self, metric: str, slice: str = "", by: float = 1) -> None:
        """Add `by` to a counter. Counters are summed over all rows and appear in the view `metrics`.

        Args:
            metric: the counter's name.
            slice: a part of it, for example a class; each slice has its own sum.
            by: a finite number.
        """
        added = _number("count", by=by)
        key = _text("count", "metric", metric), _text("count", "slice", slice)
        self._tally.counts[key] = self._tally.counts.get(key, 0) + added

    def report(self, metric: str, value: float, slice: str = "") -> None:
        """Record a measured number in the view `metrics`, for instance `ctx.report("accuracy", 0.7, "test")`.

        A series has the slices `step 1`, `step 2` and so on; the run's summary shows the ends of a step's first series.

        Args:
            metric: the measure's name.
            value: a finite number; the last value of a metric and slice stays.
            slice: a part of it.
        """
        key = _text("report", "metric", metric), _text("report", "slice", slice)
        self._tally.values[key] = _number("report", value=value)

    def reject(self, reason: str, *, row: int | RowRef | None = None) -> None:
        """Record that one of the outputs of a row cannot be used, and continue with the row.

        The reason appears in the view `rejects`, with those of rows that are rejected as a whole (`raise Reject`). It does
        not count towards `max_reject_ratio`. For operators on rows.

        Args:
            reason: why the row is rejected, for users.
            row: for operators on batches and on whole inputs: the row (its number in `_row`, or `table.ref(n)`), which is
                rejected as a whole and counts.
        """
        reason = _text("reject", "reason", reason)
        if (row is None) is (self._row_rejects is not None):
            raise _misused("reject", "row= is only for operators on batches and on whole inputs, which must set it")
        if row is None or self._row_rejects is None:
            self._rejects.append(reason)
        else:
            self._row_rejects.setdefault(row, reason)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        """Show a text in the run's summary; the same text appears once."""
        text = _text("note", "text", text)
        if text not in self._tally.notes:
            self._tally.notes.append(text)

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Show the progress of a long operator on whole inputs, such as a training at step `done` of `total`."""
        self._progress(done, total, note)

    def seen(self, row: RowRef, times: int = 1) -> None:
        """Record that a trainer saw a row (`table.ref(n)`) `times` more times, for the view `training_exposure`.

        Use 0 for a row that was meant for training but was not reached: it counts as unused, not as filtered.
        """
        self._tally.seen[row] = self._tally.seen.get(row, 0) + times

    def image(self, image: str | bytes) -> dict[str, Any]:
        """An image of a row as a part of a message, `{type: image_url, ...}`. It reads a file, so call it in a thread.

        Args:
            image: the value of a field that the dataset lists under `images:`, an http(s) URL, which the server fetches, a data
                URL, or bytes.

        Raises:
            Reject: it cannot be used; says why.
        """
        try:
            return image_part(image, self._read)
        except ImageError as why:
            raise Reject(str(why)) from why

    def keep(self, folder: Path) -> list[StoredFile]:
        """Store a folder's files in the registry; use the result as an artifact's `files`."""
        return self._keep(folder)


def _number(method: str, **number: Any) -> float:
    """The number to record, once it is checked."""
    [(name, value)] = number.items()
    # NumPy's numbers are not `float`s, and its booleans are not `Real`s.
    if not isinstance(value, Real) and type(value).__name__ not in ("bool", "bool_"):
        raise _misused(method, f"{name} is {_described(value)}; expected a number")
    if not math.isfinite(value):
        raise _misused(method, f"{name} is {float(value)}; expected a finite number")
    return float(value)


def _text(method: str, name: str, value: Any) -> str:
    """The text to record, once it is checked; what is not Unicode in it is replaced, because it could not be stored."""
    if not isinstance(value, str):
        raise _misused(method, f"{name} is {_described(value)}; expected a text (str)")
    return repaired(value)


def _described(value: Any) -> str:
    return f"{value!r:.100} ({type(value).__name__})"


def _misused(method: str, why: str) -> DeclarationError:
    """The error for a call of `ctx.METHOD`, with the line of the operator's code that made it."""
    frame = sys._getframe()
    while frame.f_back and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return DeclarationError(f"{frame.f_code.co_filename}:{frame.f_lineno}: ctx.{method}: {why}")
