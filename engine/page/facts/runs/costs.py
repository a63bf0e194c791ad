"""The costs of runs: dollars, tokens, calls and answers from the journal, by pipeline, step, model, day and kept row."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from graphlib import TopologicalSorter
from operator import or_
from typing import NamedTuple

from engine.page.sessions import Reader
from registry.lineage.targets import Version

_SUMS = (
    "sum({0}calls)::bigint, sum({0}calls_reused)::bigint, sum({0}tokens_in)::bigint, sum({0}tokens_out)::bigint, "
    "sum({0}cost_usd)"
)
_ASKED = "having sum({0}calls) > 0 or sum({0}calls_reused) > 0"
_STEP = "case when s.variant = '' then s.step else s.variant || '/' || s.step end"
_DAY = "coalesce(s.ended_at, r.started_at)::date"
_FROM = "from step_runs s join runs r using (run_id) where r.started_at >= ? and (? = '' or r.pipeline = ?)"

_MODELS = """
    select {model}, {sums} from model_usage u join runs r using (run_id) where r.started_at >= ? and (? = '' or r.pipeline = ?)
    group by all {asked} order by sum(u.cost_usd) desc, 1
"""
_SPENT = """
    select r.pipeline, s.variant, s.step, s.run_id, s.outcome, s.cost_usd, coalesce(s.ended_at, r.started_at) as ended
    from step_runs s join runs r using (run_id) where s.outcome <> 'hit' order by ended, r.started_at, s.run_id
"""
_LATEST = """
    select d.name, d.latest_version from datasets d where d.kind = 'dataset' and d.latest_version is not null and d.rows > 0
"""


@dataclass(frozen=True)
class Spent:
    """The model calls of a group, such as a step or a day. Answers from the journal cost nothing."""

    group: tuple[str, ...]
    calls: int
    calls_reused: int
    tokens_in: int
    tokens_out: int
    cost_usd: float


@dataclass(frozen=True)
class Kept:
    """The costs of a version's rows: the dollars of the steps that made it, and of everything that they were made from.

    A step's dollars are those of the run that made the version, and of runs before it that did not finish the step.
    """

    version: Version
    rows: int
    cost_usd: float

    @property
    def each(self) -> float:
        """Dollars per row."""
        return self.cost_usd / self.rows


@dataclass(frozen=True)
class Costs:
    """Spending.

    Args:
        since: the first day; None: since the first run.
        pipeline: only that of this pipeline; empty: of all.
        unassigned: the spending of runs that did not record it by model.
    """

    since: dt.date | None
    pipeline: str
    total: Spent
    pipelines: tuple[Spent, ...]
    steps: tuple[Spent, ...]
    models: tuple[Spent, ...]
    days: tuple[Spent, ...]
    kept: tuple[Kept, ...]
    unassigned: float


def costs(reader: Reader, pipeline: str = "", since: dt.date | None = None) -> Costs:
    """The costs of the runs of the registry, of one pipeline or of all."""
    given = [dt.datetime.combine(since or dt.date(1, 1, 1), dt.time()), pipeline, pipeline]
    ask = reader.session.ask

    def grouped(by: str, width: int, order: str) -> tuple[Spent, ...]:
        query = f"select {by}, {_SUMS.format('s.')} {_FROM} group by all {_ASKED.format('s.')} order by {order}"
        return _spent(ask(query, given).rows, width)

    total = _spent(ask(f"select {_SUMS.format('s.')} {_FROM}", given).rows, 0)[0]
    models = _spent(ask(_MODELS.format(model="u.model", sums=_SUMS.format("u."), asked=_ASKED.format("u.")), given).rows, 1)
    by_cost = "sum(s.cost_usd) desc, sum(s.calls) desc, 1"
    return Costs(
        since,
        pipeline,
        total,
        grouped("r.pipeline", 1, by_cost),
        grouped(f"r.pipeline, {_STEP}", 2, by_cost),
        models,
        grouped(_DAY, 1, "1"),
        tuple(_kept(reader, pipeline)),
        max(0.0, total.cost_usd - sum(each.cost_usd for each in models)),
    )


def _spent(rows: Iterable[Sequence[object]], width: int) -> tuple[Spent, ...]:
    return tuple(Spent(tuple(map(str, row[:width])), *(number or 0 for number in row[width:])) for row in rows)  # type: ignore[arg-type]


def _kept(reader: Reader, pipeline: str) -> list[Kept]:
    """The price of the rows of the latest datasets; those that cost nothing are left out."""
    made = _makings(reader)
    priced = {making: place for place, making in enumerate(dict.fromkeys(made.values()))}
    graph, facts = reader.session.lineage.graph, reader.session.lineage.facts
    parents = {version: [link.parent for link in graph.links(version, "up")] for version in facts}
    # The steps that made a version, as bits: outputs of one step are made together and share its dollars.
    bits: dict[Version, int] = {}
    for version in TopologicalSorter(parents).static_order():
        own = 1 << priced[made[version]] if version in made else 0
        bits[version] = reduce(or_, (bits[parent] for parent in parents.get(version, ())), own)
    found = []
    for name, number in reader.session.ask(_LATEST).rows:
        version = Version(name, number)
        if bits[version] and (not pipeline or name.startswith(f"{pipeline}/")):
            dollars = sum(making.cost_usd for making, place in priced.items() if bits[version] >> place & 1)
            found.append(Kept(version, facts[version].rows, dollars))
    return sorted(found, key=lambda each: -each.each)


class _Making(NamedTuple):
    """A step of a run that made versions, and its dollars, with those of runs that did not finish it before."""

    pipeline: str
    variant: str
    step: str
    run_id: str
    cost_usd: float


def _makings(reader: Reader) -> dict[Version, _Making]:
    """The step that made each version, if it cost anything."""
    makings: dict[tuple[str, ...], _Making] = {}
    unfinished: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for pipeline, variant, step, run_id, outcome, cost, _ in reader.session.ask(_SPENT).rows:
        unfinished[pipeline, variant, step] += cost
        if outcome in ("ran", "resumed") and (dollars := unfinished.pop((pipeline, variant, step))):
            makings[pipeline, variant, step, run_id] = _Making(pipeline, variant, step, run_id, dollars)
    if not makings:
        return {}
    query = "select v.name, v.version, r.pipeline, v.variant, v.step, v.run_id from versions v join runs r using (run_id)"
    made = {Version(name, number): tuple(by) for name, number, *by in reader.session.ask(query).rows}
    return {version: makings[by] for version, by in made.items() if by in makings}
