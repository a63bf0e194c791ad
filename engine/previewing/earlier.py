"""What the newest versions of a pipeline show about its steps, for each row that a step had: rows, calls, tokens, seconds."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from engine.pipeline.graph import Pipeline, Step
from engine.previewing.observed import CALLS, ROWS_IN, ROWS_OUT, SECONDS, TOKENS_IN, TOKENS_OUT, Amounts, ObservedStep
from engine.spec.variant_names import split_name
from registry import Manifest, Registry, SideObject
from registry.errors import CorruptError

MOST_ROWS = 100_000
"""In larger versions than this, amounts are divided equally among the rows."""

MOST_BYTES = 32 << 20
"""The maximum number of calls of a version that are read; the others are assumed to be like them."""

_SECONDS = """
select s.seconds, s.rows_in from step_runs s join runs r using (run_id)
where r.pipeline = ? and s.variant = ? and s.step = ? and s.outcome = 'ran' and s.rows_in > 0 order by r.started_at desc limit 1
"""


def earlier_steps(pipeline: Pipeline, names: Collection[str], registry: Registry) -> dict[str, tuple[str, ObservedStep]]:
    """For each of these steps that has run before, the newest version and what it shows about the step."""
    found: dict[str, tuple[str, ObservedStep]] = {}
    firsts = {name: pipeline.output_name(name, next(iter(pipeline.steps[name].operator.outputs))) for name in sorted(names)}
    if not registry.newest_by_step_key(firsts.values()):  # one look-up instead of one for each step
        return found
    for name, first in firsts.items():
        step, newest = pipeline.steps[name], registry.newest(first)
        if newest is None or not newest.rows_in:
            continue
        with suppress(CorruptError, FileNotFoundError):  # a damaged version is made again; it cannot be relied on here, either
            found[name] = str(newest.ref), _shown(pipeline, step, newest, registry)
    return found


def _shown(pipeline: Pipeline, step: Step, newest: Manifest, registry: Registry) -> ObservedStep:
    names = {pipeline.output_name(step.name, output) for output in step.operator.outputs}
    versions = [each for each in registry.find_step(newest.step_key) if each.name in names]
    rows = newest.rows_in
    shares = rows > MOST_ROWS or step.operator.streamed is None
    amounts: Amounts = {ROWS_IN: [1.0] if shares else [1.0] * rows}
    numbers: dict[tuple[int, int], int] = {}
    known: set[str] = set()
    longest: dict[int, float] = {}

    def add(kind: str, places: Collection[int], amount: float) -> None:
        of_each = amounts.setdefault(kind, [0.0] * len(amounts[ROWS_IN]))
        if shares:
            of_each[0] += amount / rows
            return
        for place in places:
            of_each[place] += amount / len(places)

    for version in versions:
        parents = {} if shares else _parents(version, registry, numbers, rows)
        amounts.setdefault(f"{ROWS_OUT} {version.output}", [0.0] * len(amounts[ROWS_IN]))
        for row in [0] if shares else range(version.rows):
            add(f"{ROWS_OUT} {version.output}", parents.get(row, [row % rows]), float(version.rows) if shares else 1.0)
        for number, (call, times) in enumerate(_calls(version, registry)):
            if call["call_id"] in known:
                continue
            known.add(call["call_id"])
            # Which row made a call that produced nothing is not recorded; the last rows have no outputs.
            places = parents.get(call["row"], [rows - 1 - number % rows]) if not shares else []
            role = call["role"]
            add(f"{CALLS} {role}", places, times)
            add(f"{TOKENS_IN} {role}", places, times * call["tokens_in"])
            add(f"{TOKENS_OUT} {role}", places, times * call["tokens_out"])
            add(f"{SECONDS} {role}", places, times * call["latency_ms"] / 1000)
            for place in places[:1]:
                longest[place] = longest.get(place, 0.0) + call["latency_ms"] / 1000
    if not known and (took := registry.catalog.look_up(_SECONDS, [pipeline.spec.name, *split_name(step.name)])):
        [(seconds, of)] = took
        add(f"{SECONDS} ", range(len(amounts[ROWS_IN])), seconds * rows / of)
    return ObservedStep(key="", amounts=amounts, fixed={}, longest=max(longest.values(), default=0.0))


def _parents(version: Manifest, registry: Registry, numbers: dict[tuple[int, int], int], rows: int) -> dict[int, list[int]]:
    """The numbers of the rows that each row of a version came from, without those that were only looked up."""
    found: dict[int, list[int]] = {}
    for side in version.side:
        if side.kind == "lineage":
            table = registry.store.read_table(side.sha256)
            edges = zip(*(table[name].to_pylist() for name in ("child_row", "input", "parent_row")), strict=True)
            for child, number, parent in edges:
                if number not in version.broadcast_inputs:
                    found.setdefault(child, []).append(numbers.setdefault((number, parent), len(numbers)) % rows)
    return found


def _calls(version: Manifest, registry: Registry) -> Iterator[tuple[dict[str, Any], float]]:
    """The calls of a version, each with the number of its row, and with how many it stands for."""
    parts: list[SideObject] = [side for side in version.side if side.kind == "calls"]
    total, read, size = sum(part.rows for part in parts), 0, 0
    chosen: list[SideObject] = []
    for part in parts:
        if chosen and size + part.bytes > MOST_BYTES:
            break
        chosen.append(part)
        read, size = read + part.rows, size + part.bytes
    columns = ["local_row", "call_id", "role", "tokens_in", "tokens_out", "latency_ms"]
    for part in chosen:
        for call in registry.store.read_table(part.sha256, columns).to_pylist():
            local = call.pop("local_row")
            yield call | {"row": None if local is None else local + part.base}, total / max(1, read)
