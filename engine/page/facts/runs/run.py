"""A run, active or ended: what each of its steps did, made, cost and waited for."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.jobs.live import LiveStep, read_live
from engine.page.sessions import Reader
from registry.errors import CorruptError, UnknownRunError
from registry.lineage.targets import Version

_RUN = "select run_id, pipeline, state, started_at, ended_at, error, params, file from runs where run_id = ?"
_STEPS = """
    select case when variant = '' then step else variant || '/' || step end as name, op, outcome, rows_in, rows_out, filtered,
        rejected, unused, calls, calls_reused, tokens_in, tokens_out, cost_usd, seconds, started_at, ended_at,
        coalesce(waited_for, '') as waited_for, coalesce(why, []) as why, coalesce(notes, []) as notes
    from step_runs where run_id = ?
"""
_NEWEST = "select name, max(version) from versions where name in (select unnest(?::varchar[])) group by name"
_OTHERS = "select run_id, state, started_at from runs where pipeline = ? and run_id <> ? order by started_at desc limit 30"


@dataclass(frozen=True)
class Part:
    """A version that a step of the run reads or makes.

    Args:
        version: its number; None while it is not made, or if the number is not known.
        rows: None where they are not known.
        removed: whether it was made, and has been removed since.
    """

    name: str
    version: int | None
    kind: str = "dataset"
    rows: int | None = None
    removed: bool = False


@dataclass(frozen=True)
class Progress:
    """The progress of a running step, in rows or in the operator's own units; `note` says what it is waiting for."""

    done: int
    total: int
    note: str
    base_key: str


@dataclass(frozen=True)
class StepFacts:
    """A step of a run.

    Args:
        name: with its variant.
        outcome: as in `step_runs`, where `waiting` is for reviewers; or `running`, `pending` for one that has yet to begin, or
            `not reached` for one without a record.
        models: the models in its roles: the name of a model of the registry (`is_version`), or of one that was asked.
        progress: while it runs.
    """

    name: str
    op: str
    outcome: str
    rows_in: int = 0
    rows_out: int = 0
    filtered: int = 0
    rejected: int = 0
    unused: int = 0
    calls: int = 0
    calls_reused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    seconds: float | None = None
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    waited_for: str = ""
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    inputs: tuple[Part, ...] = ()
    outputs: tuple[Part, ...] = ()
    models: tuple[ModelUse, ...] = ()
    progress: Progress | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has yet to end."""
        return self.outcome in ("running", "pending")

    @property
    def seconds_so_far(self) -> float | None:
        """How long it has been running; None if it does not."""
        return _since(self.started_at) if self.outcome == "running" and self.started_at else None


@dataclass(frozen=True)
class ModelUse:
    """A model that a step used, with its calls in this run; `version` if the registry has it."""

    model: str
    version: Part | None = None
    role: str = ""
    calls: int = 0
    calls_reused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class OtherRun:
    """Another run of the same pipeline."""

    run_id: str
    state: str
    started_at: dt.datetime


@dataclass(frozen=True)
class RunFacts:
    """A run.

    Args:
        state: as in `runs`; `interrupted` if its process has died and nothing has recorded that yet.
        live_at: when it last reported its progress; None if it has ended.
        others: the newest other runs of its pipeline.
    """

    run_id: str
    pipeline: str
    state: str
    started_at: dt.datetime
    ended_at: dt.datetime | None
    error: str | None
    params: Mapping[str, str]
    file: str | None
    steps: tuple[StepFacts, ...]
    live_at: dt.datetime | None = None
    others: tuple[OtherRun, ...] = ()

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it is running, or if it is not known when its process died."""
        known = self.ended_at and self.state in ("succeeded", "failed")
        return (self.ended_at - self.started_at).total_seconds() if known and self.ended_at else None

    @property
    def seconds_so_far(self) -> float | None:
        """How long it has been running; None if it does not."""
        return _since(self.started_at) if self.state == "running" else None

    @property
    def cost_usd(self) -> float:
        """The price of its calls."""
        return sum(step.cost_usd for step in self.steps)

    def total(self, name: str) -> int:
        """The sum of a number over all steps."""
        return sum(getattr(step, name) for step in self.steps)


def _since(began: dt.datetime) -> float:
    return max(0.0, (dt.datetime.now(dt.UTC).replace(tzinfo=None) - began).total_seconds())


def run_facts(reader: Reader, run_id: str) -> RunFacts:
    """The facts of a run. Raises UnknownRunError when there is no such run."""
    found = reader.session.ask(_RUN, [run_id]).rows
    if not found:
        raise UnknownRunError(f"there is no run {run_id!r}; the home page lists the newest runs")
    _, pipeline, state, started_at, ended_at, error, params, file = found[0]
    live = read_live(reader.registry.catalog.runs.folder, run_id) if state == "running" else None
    if state == "running" and not reader.registry.catalog.runs.seems_live(run_id):
        state, live = "interrupted", None
    others = tuple(OtherRun(*row) for row in reader.session.ask(_OTHERS, [pipeline, run_id]).rows)
    return RunFacts(
        run_id=run_id,
        pipeline=pipeline,
        state=state,
        started_at=started_at,
        ended_at=ended_at,
        error=error,
        params={name: _as_written(value) for name, value in json.loads(params or "{}").items()},
        file=file,
        steps=tuple(_steps(reader, run_id, live.steps if live else (), running=state == "running")),
        live_at=live.at if live else None,
        others=others,
    )


def _as_written(value: Any) -> str:
    """A parameter as a pipeline file has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _steps(reader: Reader, run_id: str, live: Sequence[LiveStep], *, running: bool) -> Iterator[StepFacts]:
    """The steps in the order of the pipeline, then those that only the record names, in the order in which they ended."""
    answer = reader.session.ask(_STEPS, [run_id])
    ended = {row[0]: _ended(dict(zip(answer.columns, row, strict=True))) for row in answer.rows}
    planned, made = _recorded(reader, run_id)
    opened = {each.step: _opened(each) for each in live if each.step not in ended}
    uses = _uses(reader, run_id)
    versions = {name: version for parts in made.values() for name, version in parts}
    if running:
        # A run commits or finds its sources before it reports anything, so the newest versions are those that it reads.
        sources = {name for plan in planned.values() for name in _planned_inputs(plan)} - {
            name for plan in planned.values() for name in plan.get("outputs", ())
        }
        newest = reader.session.ask(_NEWEST, [sorted(sources)]).rows if sources else []
        versions = {**dict(newest), **versions}
    for name in dict.fromkeys([*planned, *ended, *opened]):
        plan = planned.get(name, {})
        step = ended.get(name) or opened.get(name)
        if step is None:
            step = StepFacts(name, str(plan.get("op", "")), "pending" if running else "not reached")
        outputs = tuple(_part(reader, each, version) for each, version in made.get(name, ()))
        outputs = outputs or tuple(Part(each, None) for each in plan.get("outputs", ()))
        inputs = _inputs(reader, outputs) or tuple(_named(reader, each, versions) for each in _planned_inputs(plan))
        models = tuple(_models(reader, step, plan, outputs, versions, uses.get(name, {})))
        yield replace(step, inputs=inputs, outputs=outputs, models=models)


def _ended(row: dict[str, Any]) -> StepFacts:
    return StepFacts(**{**row, "why": tuple(row["why"]), "notes": tuple(row["notes"])})


def _opened(live: LiveStep) -> StepFacts:
    if live.state == "waiting":
        return StepFacts(live.step, live.op, "pending", waited_for=live.waited_for)
    used = live.usage.model_dump(exclude={"by_model"})
    return StepFacts(
        live.step,
        live.op,
        "running",
        rows_in=live.rows,
        rejected=live.rejected,
        **used,
        started_at=live.started_at and live.started_at.astimezone(dt.UTC).replace(tzinfo=None),
        waited_for=live.waited_for,
        why=live.why,
        progress=Progress(live.done, live.total, live.note, live.base_key),
    )


def _recorded(reader: Reader, run_id: str) -> tuple[dict[str, dict[str, Any]], dict[str, list[tuple[str, int]]]]:
    """The steps that the run began with, and what each made or used; empty if the journal is damaged."""
    runs = reader.registry.catalog.runs
    try:
        first = next(iter(runs.read(run_id)), None)
        graph = first.source.get("graph", []) if first else []
        planned = {str(each["step"]): each for each in graph if isinstance(each, dict) and "step" in each}
        return planned, runs.outputs_by_step(run_id)
    except (CorruptError, OSError):
        return {}, {}


def _planned_inputs(plan: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for names in plan.get("inputs", {}).values() for name in names))


def _part(reader: Reader, name: str, version: int) -> Part:
    fact = reader.session.lineage.facts.get(Version(name, version))
    if fact is None:
        return Part(name, version, removed=True)
    return Part(name, version, fact.kind, fact.rows)


def _inputs(reader: Reader, outputs: Sequence[Part]) -> tuple[Part, ...]:
    """The versions that versions were made from, without models."""
    links = (
        link
        for part in outputs
        if part.version is not None
        for link in reader.session.lineage.graph.links(Version(part.name, part.version), "up")
    )
    return tuple(dict.fromkeys(_part(reader, *link.parent) for link in links if not link.model))


def _named(reader: Reader, name: str, versions: Mapping[str, int]) -> Part:
    """A version of the registry (`NAME@V`), or the version that the run has made, will make or has read under a name."""
    own, _, number = name.rpartition("@")
    if own and number.isdecimal():
        return _part(reader, own, int(number))
    return _part(reader, name, versions[name]) if name in versions else Part(name, None)


def _uses(reader: Reader, run_id: str) -> dict[str, dict[str, dict[str, Any]]]:
    answer = reader.session.ask(
        "select case when variant = '' then step else variant || '/' || step end as name, model, calls, calls_reused, "
        "tokens_in, tokens_out, cost_usd from model_usage where run_id = ?",
        [run_id],
    )
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, model, *numbers in answer.rows:
        found.setdefault(name, {})[model] = dict(zip(answer.columns[2:], numbers, strict=True))
    return found


def _models(
    reader: Reader,
    step: StepFacts,
    plan: Mapping[str, Any],
    outputs: Sequence[Part],
    versions: Mapping[str, int],
    used: dict[str, dict[str, Any]],
) -> Iterator[ModelUse]:
    """The models in a step's roles, and others with calls in its record."""
    links = [
        link.parent
        for part in outputs[:1]
        if part.version is not None
        for link in reader.session.lineage.graph.links(Version(part.name, part.version), "up")
        if link.model
    ]
    made = {parent.name: _part(reader, *parent) for parent in links}
    left = {**used}
    for role, about in plan.get("models", {}).items():
        if name := about.get("name"):
            version = made.pop(name, None) or _named(reader, name, versions)
            # The calls of a model that a step trained are recorded as those of `step:NAME`.
            known = next((each for each in left if each.startswith("step:")), "")
            yield ModelUse(name, replace(version, kind="model"), role, **left.pop(known, {}))
        else:
            yield ModelUse(str(about.get("model", "")), None, role, **left.pop(str(about.get("model", "")), {}))
    yield from (ModelUse(name, part) for name, part in made.items())
    yield from (ModelUse(name, None, **numbers) for name, numbers in left.items())


def removed_since(run: RunFacts) -> list[Part]:
    """The versions that the run made or used and that have been removed."""
    return [part for step in run.steps for part in step.outputs if part.removed]
