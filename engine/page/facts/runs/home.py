"""The facts on the home page: active runs, the last runs, the pipelines, and the names in the registry."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace

from engine.jobs.live import LiveStep, read_live
from engine.page.sessions import Reader

_RUNS = """
    select r.run_id, r.pipeline, r.state, r.started_at, r.ended_at, r.error,
        count(s.step) as steps, coalesce(sum(s.rows_out), 0)::bigint as rows, coalesce(sum(s.rejected), 0)::bigint as rejected,
        coalesce(sum(s.calls), 0)::bigint as calls, coalesce(sum(s.cost_usd), 0.0) as dollars
    from runs r left join step_runs s using (run_id)
    where $1 in ('', r.pipeline)
    group by all order by r.started_at desc, r.run_id desc limit $2
"""
_PIPELINES = """
    select pipeline, count(*) as runs, arg_max(run_id, started_at) as last, arg_max(state, started_at) as state,
        max(started_at) as started_at, coalesce(sum(dollars), 0.0) as dollars
    from runs left join (select run_id, sum(cost_usd) as dollars from step_runs group by 1) using (run_id)
    group by 1 order by started_at desc, pipeline
"""
_NAMED = """
    select name, kind, type, latest_version, rows, updated_at from datasets
    where ($1 = '' or contains(lower(name), lower($1)))
    order by name limit $2
"""
_COUNT = "select count(*) from datasets where ($1 = '' or contains(lower(name), lower($1)))"


@dataclass(frozen=True)
class RunLine:
    """A run in the list of runs.

    Args:
        state: as in `runs`; `interrupted` also if its process has died and that is not recorded yet.
        rows: the rows of all outputs of its steps, including unchanged steps.
        dollars: the price of the calls of this run.
        now: its steps that wait or run, as far as it reports them.
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
    now: tuple[LiveStep, ...] = ()

    @property
    def seconds(self) -> float | None:
        """How long it took; until now while it is running; None if it is not known when it ended."""
        if self.state == "running":
            return max(0.0, (dt.datetime.now(dt.UTC).replace(tzinfo=None) - self.started_at).total_seconds())
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at else None


@dataclass(frozen=True)
class Pipeline:
    """A pipeline that ran, and its last run."""

    name: str
    runs: int
    last: str
    state: str
    started_at: dt.datetime
    dollars: float


@dataclass(frozen=True)
class Named:
    """The latest version of a dataset, model, calibration or report; `version` is None if none became the latest."""

    name: str
    kind: str
    type: str
    version: int | None
    rows: int
    updated_at: dt.datetime


@dataclass(frozen=True)
class Names:
    """The first names that contain a text, and how many there are."""

    first: tuple[Named, ...]
    count: int


def runs(reader: Reader, most: int, pipeline: str = "") -> tuple[RunLine, ...]:
    """The newest runs, of one pipeline or of all."""
    found = reader.session.ask(_RUNS, [pipeline, most]).rows
    return tuple(_now(reader, (RunLine(*row) for row in found)))


def _now(reader: Reader, lines: Iterator[RunLine]) -> Iterator[RunLine]:
    """The same runs; those recorded as running with their current steps, or as interrupted if their process has died."""
    journals = reader.registry.catalog.runs
    for line in lines:
        if line.state != "running":
            yield line
        elif not journals.seems_live(line.run_id):
            yield replace(line, state="interrupted")
        else:
            live = read_live(journals.folder, line.run_id)
            yield replace(line, now=live.steps if live else ())


def pipelines(reader: Reader) -> tuple[Pipeline, ...]:
    """The pipelines that ran, the last one first."""
    journals = reader.registry.catalog.runs
    found = [Pipeline(*row) for row in reader.session.ask(_PIPELINES).rows]
    return tuple(
        replace(each, state="interrupted") if each.state == "running" and not journals.seems_live(each.last) else each
        for each in found
    )


def names(reader: Reader, most: int, containing: str = "") -> Names:
    """The names in the registry in alphabetical order, ignoring case."""
    [(count,)] = reader.session.ask(_COUNT, [containing]).rows
    found = reader.session.ask(_NAMED, [containing, most]).rows
    return Names(tuple(Named(*row) for row in found), int(count))
