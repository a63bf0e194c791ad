"""What an operator is given beside its rows: models, seeded randomness, counters, a scratch folder."""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.provenance import RowRef
from registry import Metric, StoredFile

if TYPE_CHECKING:
    from engine.llm.chat import ChatModel
    from engine.llm.encoder import Encoder


class Reject(Exception):  # noqa: N818  (it is an outcome, not an error of the program)
    """Raised by an operator for a row that it cannot use; the row goes to the step's rejects with the reason."""


@dataclass
class Tally:
    """Numbers that operators report, added up over a partition."""

    counts: dict[tuple[str, str], float] = field(default_factory=dict)
    values: dict[tuple[str, str], float] = field(default_factory=dict)
    seen: dict[RowRef, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add what another one has."""
        for key, value in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + value
        self.values |= other.values
        self.seen |= other.seen
        self.notes += other.notes

    def metrics(self) -> tuple[tuple[Metric, ...], tuple[Metric, ...]]:
        """(counters, to be added up over partitions; values, which stand as they are)."""
        counts = (Metric(metric=metric, slice=part, value=value) for (metric, part), value in sorted(self.counts.items()))
        values = (Metric(metric=metric, slice=part, value=value) for (metric, part), value in self.values.items())
        return tuple(counts), tuple(values)


@dataclass(frozen=True)
class Context:
    """The operator's view of the engine.

    Attributes:
        models: the models by role; `await ctx.models["teacher"].chat("...")`.
        encoders: the sentence encoders by role; `await ctx.encoders["encoder"].embed(["...", "..."])`.
        random: a generator seeded by the pipeline's seed, the operator and the row's content, so that the order of
            rows and the number of workers do not matter.
        log: a logger for the people who run the pipeline.
        device: what each of several devices may use, in Ray's words (`CPU`, `GPU`); see `devices` of @operator.
        seed: the number `random` was seeded with, for libraries that have generators of their own.
    """

    models: Mapping[str, ChatModel]
    encoders: Mapping[str, Encoder]
    random: random.Random
    log: logging.Logger
    seed: int
    device: Mapping[str, float]
    _folder: Path
    _lasting: Path
    _tally: Tally
    _keep: Callable[[Path], list[StoredFile]]
    _progress: Callable[[int, int, str], None]
    _rejects: list[str] = field(default_factory=list)

    @cached_property
    def scratch(self) -> Path:
        """An empty folder of this row's (or step's) own, removed afterwards."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    @cached_property
    def checkpoints(self) -> Path:
        """A folder that outlives a crash: what an operator on whole inputs left in it is there when the step runs again.

        It is removed when the step is done, and belongs to this step over these very inputs, parameters and code.
        """
        self._lasting.mkdir(parents=True, exist_ok=True)
        return self._lasting

    def count(self, metric: str, slice: str = "", by: float = 1) -> None:
        """Add to a counter; counters are summed over all rows and stand in the view `metrics`."""
        self._tally.counts[metric, slice] = self._tally.counts.get((metric, slice), 0) + by

    def reject(self, reason: str) -> None:
        """Say that one of the things that the row was to lead to cannot be used, while the row itself goes on.

        The reason stands in the view `rejects` beside those of rows that are rejected as a whole (`raise Reject`); it does not
        count for `max_reject_ratio`. For operators on rows.
        """
        self._rejects.append(reason)

    def report(self, metric: str, value: float, slice: str = "") -> None:
        """Record a measured number in the view `metrics`, for instance `ctx.report("loss", 0.7, "step 10")`."""
        self._tally.values[metric, slice] = float(value)

    def note(self, text: str) -> None:
        """Say something to the people who run the pipeline; it stands in the run's summary, equal texts once."""
        if text not in self._tally.notes:
            self._tally.notes.append(text)

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Tell the user how far a long operator on whole inputs is, such as a training loop at step `done` of `total`."""
        self._progress(done, total, note)

    def seen(self, row: RowRef, times: int = 1) -> None:
        """Record that a trainer went through a row (`table.ref(n)`) so many more times, for the view `training_exposure`.

        A row with 0 times was to be trained on, and the training ended before it: it counts as unused, not as filtered.
        """
        self._tally.seen[row] = self._tally.seen.get(row, 0) + times

    def keep(self, folder: Path) -> list[StoredFile]:
        """Store a folder's files in the registry, to be named in an artifact's `files`."""
        return self._keep(folder)
