"""What the first page says: the last runs, what is running, and the names in the registry."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from engine.page.sessions import Reader

_RUNS = """
    select r.run_id, r.pipeline, r.state, r.started_at, r.ended_at, r.error,
        count(s.step) as steps, coalesce(sum(s.rows_out), 0)::bigint as rows, coalesce(sum(s.rejected), 0)::bigint as rejected,
        coalesce(sum(s.calls), 0)::bigint as calls, coalesce(sum(s.cost_usd), 0.0) as dollars
    from runs r left join step_runs s using (run_id)
    group by all order by r.started_at desc, r.run_id desc limit ?
"""


@dataclass(frozen=True)
class RunLine:
    """A run in the list of runs.

    Args:
        rows: rows that its steps put out, together; with unchanged steps.
        dollars: the price of the calls of this run.
        seconds: how long it took; None while it is running.
    """

    run_id: str
    pipeline: str
    state: str
    started_at: dt.datetime
    ended_at: dt.datetime | None
    error: str | None
    steps: int
    rows: int
    rejected: int
    calls: int
    dollars: float

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it is running."""
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at else None


@dataclass(frozen=True)
class Named:
    """The latest version of a dataset, model, calibration or report."""

    name: str
    kind: str
    type: str
    version: int | None
    rows: int
    updated_at: dt.datetime


@dataclass(frozen=True)
class Home:
    """The first page."""

    runs: tuple[RunLine, ...]
    named: tuple[Named, ...]


def home(reader: Reader, runs: int = 50) -> Home:
    """The newest runs, and everything that has a name."""
    found = reader.session.ask(_RUNS, [runs]).rows
    named = reader.session.ask("select name, kind, type, latest_version, rows, updated_at from datasets order by name").rows
    return Home(tuple(RunLine(*row) for row in found), tuple(Named(*row) for row in named))
