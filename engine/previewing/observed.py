"""What a preview observed, as numbers for each sampled row, and the file that keeps them for `engine plan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.pipeline.graph import Link, Pipeline, Step
from engine.planning.keys import step_document
from engine.planning.plan import excluded_of
from engine.previewing.results import Preview, PreviewCall, PreviewStep, Sampled
from registry import Registry
from registry.errors import CorruptError
from registry.records.schema import fields_of_type
from registry.storage import plain_files
from registry.storage.checked_json import json_digest, read_checked_json, write_checked_json

ROWS_IN, ROWS_OUT, CALLS, TOKENS_IN, TOKENS_OUT, SECONDS = "rows_in", "rows_out", "calls", "tokens_in", "tokens_out", "seconds"

Amount = float
Amounts = dict[str, list[Amount]]
"""By what is counted (`rows_in`, `rows_out OUTPUT`, `calls ROLE`, ...), an amount for each sampled row."""


class ObservedStep(BaseModel):
    """A step in a preview.

    Args:
        key: see `structural_keys`.
        amounts: the calls, tokens and so on that each sampled row caused.
        fixed: the amounts caused by all rows together, which do not grow with the number of rows.
        uncertain: whether prompts differ in the run, so that it cannot use the preview's answers.
        longest: the seconds of the row that took longest.
        in_flight: requests that were in flight at the same time, at most, by role.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    amounts: Amounts
    fixed: dict[str, Amount]
    uncertain: bool = False
    longest: float = 0.0
    in_flight: dict[str, int] = Field(default_factory=dict)


class Observed(BaseModel):
    """A preview, by step. `sampled` are the versions of which rows were drawn, in the order of their rows in `amounts`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: str
    seed: int
    rows: int
    sampled: tuple[Sampled, ...]
    steps: dict[str, ObservedStep]


def observed(pipeline: Pipeline, preview: Preview, uncertain: Iterable[str]) -> Observed:
    """The numbers of a preview. Nothing is known about steps that failed or were stopped."""
    total = sum(each.drawn for each in preview.sampled)
    keys = structural_keys(pipeline)
    known: set[str] = set()
    steps = {
        each.name: _of_step(each, keys[each.name], total, known, uncertain=each.name in set(uncertain))
        for each in preview.steps
        if each.state == "previewed"
    }
    return Observed(pipeline=preview.pipeline, seed=pipeline.spec.seed, rows=preview.rows, sampled=preview.sampled, steps=steps)


def _of_step(step: PreviewStep, key: str, total: int, known: set[str], *, uncertain: bool) -> ObservedStep:
    """The numbers of a step. A call that several rows make is paid for once, so it counts for the first: see `known`."""
    amounts: Amounts = {ROWS_IN: [0.0] * total, **{f"{ROWS_OUT} {output}": [0.0] * total for output in step.rows_out}}
    fixed: dict[str, float] = {}
    longest = 0.0

    def add(name: str, seeds: tuple[int, ...], amount: float) -> None:
        if not seeds:
            fixed[name] = fixed.get(name, 0.0) + amount
        for seed in seeds:
            amounts.setdefault(name, [0.0] * total)[seed] += amount / len(seeds)

    for row in step.rows:
        if row.input is None:
            # An operator on whole inputs: all its rows caused it together, each in equal parts.
            add(ROWS_IN, row.seeds, step.rows_in)
        else:
            add(ROWS_IN, row.seeds, 1.0)
            longest = max(longest, sum(call.latency_ms for call in row.calls) / 1000)
        for output, _ in row.outputs:
            add(f"{ROWS_OUT} {output}", row.seeds, 1.0)
        for call in _new(row.calls, known):
            add(f"{CALLS} {call.role}", row.seeds, 1.0)
            add(f"{TOKENS_IN} {call.role}", row.seeds, call.tokens_in)
            add(f"{TOKENS_OUT} {call.role}", row.seeds, call.tokens_out)
            add(f"{SECONDS} {call.role}", row.seeds, call.latency_ms / 1000)
    roles = {name.partition(" ")[2] for name in (*amounts, *fixed) if name.startswith(f"{CALLS} ")}
    rows = max(1, len(step.rows))
    return ObservedStep(
        key=key, amounts=amounts, fixed=fixed, uncertain=uncertain, longest=longest, in_flight=dict.fromkeys(roles, rows)
    )


def _new(calls: Iterable[PreviewCall], known: set[str]) -> list[PreviewCall]:
    found = [call for call in calls if call.call_id not in known]
    known.update(call.call_id for call in found)
    return found


def structural_keys(pipeline: Pipeline) -> dict[str, str]:
    """For each step, a digest of what determines how it treats its rows: itself and all steps before it, not the rows.

    A forecast stays valid when rows are added to a source, but not when the step or one before it changes.
    """
    keys: dict[str, str] = {}
    for name, step in pipeline.steps.items():
        keys[name] = json_digest(
            [_document(pipeline, step), {port: _keys(pipeline, of, keys) for port, of in step.inputs.items()}]
        )
    return keys


def _document(pipeline: Pipeline, step: Step) -> dict[str, Any]:
    """The key document of a step without rows. What a model costs or may do is not part of it."""
    return step_document(step, dict.fromkeys(step.inputs, ()), pipeline.seed_of(step.name), excluded_of(pipeline, step), {})


def _keys(pipeline: Pipeline, links: Iterable[Link], keys: Mapping[str, str]) -> list[list[str]]:
    found = []
    for link in links:
        if link.kind == "step":
            found.append([keys[link.name], link.output])
        elif link.kind == "dataset":
            found.append([link.name, json_digest(fields_of_type(pipeline.sources[link.name].record))])
        else:
            found.append([link.name, str(link.version)])
    return found


def remember(registry: Registry, made: Observed) -> Observed:
    """Keep what a preview observed beside the journal, unless there is a larger preview. Returns what is kept."""
    before = recall(registry, made.pipeline)
    if before and _covers(before, made):
        return before
    write_checked_json(_file(registry, made.pipeline), made.model_dump(mode="json"))
    return made


def recall(registry: Registry, pipeline: str) -> Observed | None:
    """What the last preview of a pipeline observed; None if there was none, or it cannot be read."""
    with suppress(FileNotFoundError, CorruptError, ValidationError):
        return Observed.model_validate(read_checked_json(_file(registry, pipeline)))
    return None


def _covers(before: Observed, now: Observed) -> bool:
    """Whether an earlier preview covers everything in the present one, with more rows."""
    if before.seed != now.seed or before.rows < now.rows:
        return False
    known = {name: (each.key, each.uncertain) for name, each in before.steps.items()}
    return all(known.get(name) == (each.key, each.uncertain) for name, each in now.steps.items())


def _file(registry: Registry, pipeline: str) -> Path:
    return plain_files.folder(registry.root / "previews") / f"{pipeline}.json"
