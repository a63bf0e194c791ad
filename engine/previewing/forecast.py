"""Forecasts what a run takes, from what a preview or an earlier version shows. The statistics are in `draws`.

Assumptions: the sampled rows are a random sample (they are drawn by content); operators on whole inputs keep the same share of
more rows; requests that fail and are sent again are not counted; requests take as long as in the preview, whatever else is in
flight.

Time: requests in flight are as many as the limits allow, so the requests to a model take max(sum of latencies / concurrency,
calls / requests_per_minute, tokens / tokens_per_minute). A step takes at least as long as its slowest row. Steps overlap as the
scheduler lets them. Steps that only compute count as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.llm.types.model_spec import ModelSpec
from engine.pipeline.graph import Pipeline, Step
from engine.planning.inputs import barriers, link_key
from engine.planning.results import Plan
from engine.previewing.draws import DRAWS, Amount, Population, at_least, constant, interval
from engine.previewing.earlier import earlier_steps
from engine.previewing.excerpt import source_name
from engine.previewing.observed import (
    CALLS,
    ROWS_IN,
    ROWS_OUT,
    SECONDS,
    TOKENS_IN,
    TOKENS_OUT,
    Observed,
    ObservedStep,
    structural_keys,
)
from engine.previewing.results import Forecast, StepForecast
from registry import Registry
from registry.counted import counted

if TYPE_CHECKING:
    import numpy as np

    from engine.previewing.draws import Draws

STARTUP_SECONDS = 10.0
"""The time until Ray and its first worker are ready."""


@dataclass
class _StepDraws:
    """A step in all draws; None: not known. `calls`, `tokens_in`, `tokens_out` and `seconds` are by role."""

    rows: Amount | None = None
    out: dict[str, Amount] = field(default_factory=dict)
    calls: dict[str, Amount] = field(default_factory=dict)
    tokens_in: dict[str, Amount] = field(default_factory=dict)
    tokens_out: dict[str, Amount] = field(default_factory=dict)
    seconds: dict[str, Amount] = field(default_factory=dict)
    longest: float = 0.0
    in_flight: Mapping[str, int] = field(default_factory=dict)
    basis: str = ""
    known: bool = False


def forecast(pipeline: Pipeline, plan: Plan, seen: Observed | None, registry: Registry) -> Forecast | None:
    """What a run of the planned steps will take; None if nothing is known about any of them.

    Args:
        seen: the observations of the last preview.
        registry: the registry with earlier versions, which may show something about steps that the preview does not.
    """
    to_run = {each.name: each for each in plan.to_run}
    if not to_run:
        return None
    there = {each.name: each.rows for each in plan.sources}
    for each in plan.steps:
        there |= {source_name_of(each.name, made.output): made.rows for made in each.manifests}
    keys = structural_keys(pipeline) if seen else {}
    usable = {name: step for name, step in (seen.steps if seen else {}).items() if keys.get(name) == step.key}
    earlier = earlier_steps(pipeline, to_run.keys() - usable.keys(), registry)
    if not to_run.keys() & (usable.keys() | earlier.keys()):
        return None
    import numpy as np

    random = np.random.default_rng(pipeline.spec.seed & (2**63 - 1))
    sampled = [each._replace(rows=there.get(each.name, each.rows)) for each in (seen.sampled if seen else ())]
    population = Population(sampled, random)
    made: dict[str, _StepDraws] = {}
    for name, planned in to_run.items():
        step = pipeline.steps[name]
        before = _rows_before(step, made, there, registry)
        share = _share_left(planned.done, planned.total)
        if name in usable:
            made[name] = _from_preview(usable[name], population, _upstream(pipeline, name, usable), step)
            made[name].basis = f"preview of {counted(seen.rows if seen else 0, 'row')}"
        elif name in earlier and before is not None:
            version, shown = earlier[name]
            made[name] = _from_earlier(shown, before, random)
            made[name].basis = version
        else:
            made[name] = _StepDraws(rows=before, known=not step.models and not _trains(step))
        if share < 1:
            for part in (made[name].calls, made[name].tokens_in, made[name].tokens_out, made[name].seconds):
                part.update({role: amount.times(share) for role, amount in part.items()})
    return _summed(pipeline, made, population)


def source_name_of(step: str, output: str) -> str:
    """The name of an output among what a preview draws from; see `source_name`."""
    return f"{step}.{output}" if output else step


def _trains(step: Step) -> bool:
    return any(record.registry_kind == "model" for record in step.operator.outputs.values())


def _share_left(done: int, total: int | None) -> float:
    """The share of a step's partitions that an earlier run has not finished."""
    return 1.0 if not total else 1 - done / total


def _upstream(pipeline: Pipeline, name: str, usable: Mapping[str, ObservedStep]) -> bool:
    """Whether other previewed steps come before a step, so that rows may have been lost on the way to it."""
    return any(link.kind == "step" and link.name in usable for link in pipeline.steps[name].links)


def _from_preview(seen: ObservedStep, population: Population, after_others: bool, step: Step) -> _StepDraws:
    survival: Draws | float = 1.0
    reached = [number for number, amount in enumerate(seen.amounts[ROWS_IN]) if amount]
    owners = {population.owner[number] for number in reached}
    if after_others:
        whole = [
            owner for owner in owners if population.owner.count(owner) == sum(population.owner[n] == owner for n in reached)
        ]
        for owner in whole:
            survival = survival * population.survival[owner]

    def amounts(kind: str, *, again: bool) -> dict[str, Amount]:
        names = [name for name in (*seen.amounts, *seen.fixed) if name.partition(" ")[0] == kind]
        nothing = [0.0] * population.drawn
        counts = kind in (ROWS_IN, ROWS_OUT) or not population.is_complete
        return {
            name.partition(" ")[2]: population.amount(
                seen.amounts.get(name, nothing), seen.fixed.get(name, 0.0) if counts else 0.0, again=again, survival=survival
            )
            for name in names
        }

    # If the preview had all rows, the run finds all its answers.
    again = seen.uncertain and not population.is_complete
    made = _StepDraws(
        amounts(ROWS_IN, again=True)[""],
        amounts(ROWS_OUT, again=True),
        amounts(CALLS, again=again),
        amounts(TOKENS_IN, again=again),
        amounts(TOKENS_OUT, again=again),
        amounts(SECONDS, again=again),
        seen.longest,
        seen.in_flight,
        known=True,
    )
    if not reached and not seen.fixed.get(ROWS_IN):
        _extinct(made, population, step)
    return made


def _extinct(made: _StepDraws, population: Population, step: Step) -> None:
    """Mark the costs of a step as unknown: no previewed row has reached it, but a few others may."""
    rows = sum(population.extinction[1:], start=population.extinction[0]) if population.extinction else None
    if rows is None:
        return
    made.rows = Amount(rows, 0.0)
    calls = step.operator.calls_per_row(step.params)
    made.calls = {role: Amount(rows * each, 0.0) for role, each in calls.items()}
    made.known = not calls


def _rows_before(step: Step, made: Mapping[str, _StepDraws], there: Mapping[str, int], registry: Registry) -> Amount | None:
    """The rows that a step will get from its inputs; None if that is not known."""

    total = constant(0.0)
    streamed = step.operator.streamed
    for port in [streamed] if streamed else step.inputs:
        for link in step.inputs.get(port, ()):
            name = source_name(link)
            if link.kind == "registry":
                total += constant(registry.manifest(link.name, link.version).rows)
            elif name in there:
                total += constant(there[name])
            elif link.name in made and link.output in made[link.name].out:
                total += made[link.name].out[link.output]
            else:
                return None
    return total


def _from_earlier(seen: ObservedStep, rows: Amount, random: np.random.Generator) -> _StepDraws:
    """A step as an earlier version shows it: each of `rows` causes what one of its rows caused."""
    import numpy as np

    count = len(seen.amounts[ROWS_IN])
    weights = random.dirichlet(np.ones(count), DRAWS)

    def amounts(kind: str) -> dict[str, Amount]:
        found = {}
        for name, of_each in seen.amounts.items():
            if name.partition(" ")[0] == kind:
                x = np.array(of_each)
                found[name.partition(" ")[2]] = Amount(rows.draws * (weights @ x), rows.expected * float(x.mean()))
        return found

    return _StepDraws(
        rows,
        amounts(ROWS_OUT),
        amounts(CALLS),
        amounts(TOKENS_IN),
        amounts(TOKENS_OUT),
        amounts(SECONDS),
        seen.longest,
        seen.in_flight,
        known=True,
    )


def _summed(pipeline: Pipeline, made: Mapping[str, _StepDraws], population: Population) -> Forecast:

    nothing = constant(0.0)
    fewest = min((drawn for _, rows, drawn in population.sampled if drawn < rows), default=0)
    calls = tokens = cost = nothing
    steps = []
    work: dict[str, Amount] = {}
    shared: dict[str, dict[str, Amount]] = {}
    for name, each in made.items():
        step = pipeline.steps[name]
        own = {kind: sum(getattr(each, kind).values(), nothing) for kind in ("calls", "tokens_in", "tokens_out")}
        own_cost, own_seconds = nothing, nothing
        for role in each.calls:
            spec = step.models[role].spec
            tokens_in, tokens_out = each.tokens_in.get(role, nothing), each.tokens_out.get(role, nothing)
            own_cost += tokens_in.times(spec.cost(10**6, 0) / 1e6) + tokens_out.times(spec.cost(0, 10**6) / 1e6)
            load = {"calls": each.calls[role], "tokens": tokens_in + tokens_out, "seconds": each.seconds.get(role, nothing)}
            model = step.model_names[role]
            so_far = shared.setdefault(model, dict.fromkeys(load, nothing))
            shared[model] = {kind: so_far[kind] + amount for kind, amount in load.items()}
            own_seconds = at_least(own_seconds, _occupied(spec, load, each.in_flight.get(role, 1)))
        own_seconds = at_least(own_seconds, each.seconds.get("", nothing))  # of a step without calls
        if each.known and any(amount.expected for amount in each.calls.values()):
            own_seconds = at_least(own_seconds, constant(each.longest))
        work[name] = own_seconds
        calls, tokens, cost = calls + own["calls"], tokens + own["tokens_in"] + own["tokens_out"], cost + own_cost
        if not each.known:
            steps.append(
                StepForecast(
                    name,
                    step.operator.name,
                    rows=interval(each.rows, fewest) if each.rows else None,
                    calls=interval(own["calls"], fewest) if each.calls else None,
                )
            )
            continue
        steps.append(
            StepForecast(
                name,
                step.operator.name,
                rows=interval(each.rows, fewest) if each.rows else None,
                **{kind: interval(amount, fewest) for kind, amount in own.items()},
                cost_usd=interval(own_cost, fewest),
                seconds=interval(own_seconds, fewest),
                basis=each.basis,
            )
        )
    finish = _finishes(pipeline, made, work)
    seconds = nothing
    for name in made:
        seconds = at_least(seconds, finish[name])
    for model, load in shared.items():
        in_flight = max(
            each.in_flight.get(role, 1)
            for name, each in made.items()
            for role in each.calls
            if pipeline.steps[name].model_names[role] == model
        )
        seconds = at_least(seconds, _occupied(pipeline.spec.models[model], load, in_flight))
    if calls.expected:
        seconds += constant(STARTUP_SECONDS)
    return Forecast(
        tuple(steps),
        interval(calls, fewest),
        interval(tokens, fewest),
        interval(cost, fewest),
        interval(seconds, fewest),
        unknown=tuple(name for name, each in made.items() if not each.known),
        notes=_notes(pipeline, made, fewest, is_complete=population.is_complete),
    )


def _notes(pipeline: Pipeline, made: Mapping[str, _StepDraws], fewest: int, *, is_complete: bool) -> tuple[str, ...]:
    notes = []
    # A few rows do not show how many of all rows are alike.
    thinning = [name for name, each in made.items() if not is_complete and _thins(pipeline.steps[name], each)]
    if thinning:
        notes.append(
            f"{', '.join(thinning)}: left out some of the previewed rows. If it compares rows with each other, as "
            "`dedup` does, it leaves out a larger share of all rows, and the steps after it take less than forecast"
        )
    if fewest == 1:
        notes.append("from a single row, an interval says little; preview more rows (-n)")
    silent = sorted(
        name
        for name, each in made.items()
        for role, amount in each.calls.items()
        if amount.expected and not each.tokens_in.get(role, amount).expected and each.known
    )
    if silent:
        notes.append(f"the servers of {', '.join(silent)} do not report tokens, so their price is not known")
    return tuple(notes)


def _thins(step: Step, made: _StepDraws) -> bool:
    """Whether an operator on whole inputs passed on fewer rows than it got."""
    out = sum(amount.expected for amount in made.out.values())
    return step.operator.shape == "whole" and not step.models and made.rows is not None and out < made.rows.expected


def _occupied(spec: ModelSpec, load: Mapping[str, Amount], in_flight: int) -> Amount:
    """Seconds that the requests to a model take at its limits."""
    most = spec.most_in_flight
    # A model in the process is slower the more requests it has, so its latencies are those of the preview's number of them.
    concurrency = most if spec.remote else min(most, in_flight)
    taken = load["seconds"].times(1 / max(1, concurrency))
    if spec.limits.requests_per_minute:
        taken = at_least(taken, load["calls"].times(60 / spec.limits.requests_per_minute))
    if spec.limits.tokens_per_minute:
        taken = at_least(taken, load["tokens"].times(60 / spec.limits.tokens_per_minute))
    return taken


def _finishes(pipeline: Pipeline, made: Mapping[str, _StepDraws], work: Mapping[str, Amount]) -> dict[str, Amount]:
    """When each step ends, counted from the start of the run."""

    nothing = constant(0.0)
    start: dict[str, Amount] = {}
    finish: dict[str, Amount] = {}
    for name in made:
        step = pipeline.steps[name]
        complete = barriers(pipeline, step)
        begin = end = nothing
        for link in step.links:
            if link.kind != "step" or link.name not in made:
                continue
            if link_key(link) in complete:
                begin = at_least(begin, finish[link.name])
            else:
                begin = at_least(begin, start[link.name] + constant(made[link.name].longest))
            end = at_least(end, finish[link.name])
        start[name] = begin
        finish[name] = at_least(begin + work[name], end + constant(made[name].longest if made[name].calls else 0.0))
    return finish
