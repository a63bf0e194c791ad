"""Reads what a preview made: each row of a step with its calls, its outputs and the reason for its rejection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.causes import by_cause
from engine.jobs.messages import OutputPart, Partition, Receipt
from engine.pipeline.graph import Step
from engine.planning.inputs import link_key
from engine.previewing.results import PreviewCall, PreviewRow, PreviewStep
from engine.running.result import StepResult
from engine.running.step_task import StepTask
from registry import ObjectStore
from registry.counted import counted

Seeds = dict[tuple[str, str], list[tuple[int, ...]]]
"""The sampled rows behind each row of a version, by (dataset or step, output)."""

_STATES = {"failed": "failed", "stopped": "stopped", "waiting": "waits"}


def collected(task: StepTask, result: StepResult, seeds: Seeds, store: ObjectStore, notes: Sequence[str] = ()) -> PreviewStep:
    """What a step did in a preview. Adds the seeds of its outputs to `seeds`.

    Args:
        task: the step, which has ended.
        result: the step's result, as it was reported.
        seeds: the seeds of everything that the step reads.
        store: the store of the objects.
        notes: other things that users should know.
    """
    step, record = task.step, result.record
    whole = step.operator.streamed is None
    if task.waits:
        return _waiting(task, result, seeds, store, notes)
    made = [_of_whole(step, receipt, seeds, store) for _, _, receipt in task.placed()] if whole else []
    rows = made or [_of_row(step, *each, seeds, store) for each in task.placed()]
    for output in step.operator.outputs:
        if output not in step.operator.finished_outputs:
            seeds[step.name, output] = [each for row, of in rows for each in of.get(output, ())]
    for manifest in result.outputs:
        if manifest.output in step.operator.finished_outputs:
            seeds[step.name, manifest.output] = [()] * manifest.rows
    reasons = by_cause(reason for row, _ in rows for reason in filter(None, (row.rejected, *row.partly_rejected)))
    return PreviewStep(
        step.name,
        step.operator.name,
        _STATES.get(record.outcome, "previewed"),  # type: ignore[arg-type]
        why=str(task.failure).partition(" failed: ")[2] if task.failure else "",
        rows_in=record.rows_in,
        rows_out={output: len(seeds.get((step.name, output), ())) for output in step.operator.outputs},
        filtered=record.filtered,
        rejected=record.rejected,
        unused=record.unused,
        reasons=dict(result.reasons) if whole else {each.text: each.times for each in reasons},
        calls=record.calls,
        calls_reused=record.calls_reused,
        tokens_in=record.tokens_in,
        tokens_out=record.tokens_out,
        cost_usd=record.cost_usd,
        seconds=record.seconds,
        rows=tuple(row for row, _ in rows),
        notes=tuple(dict.fromkeys((*notes, *result.notes))),
        metrics=tuple(result.metrics),
    )


def _waiting(task: StepTask, result: StepResult, seeds: Seeds, store: ObjectStore, notes: Sequence[str]) -> PreviewStep:
    """A step that would wait for reviewers, with the rows as they would see them."""
    step, plan = task.step, task.plan
    rows = []
    for port, links in step.inputs.items():
        for link, version in zip(links, plan.inputs[port], strict=True):
            found = [row for data in version.data for row in store.read_table(data.sha256).to_pylist()]
            rows += [PreviewRow(own, row, (), (), None) for own, row in zip(seeds[link_key(link)], found, strict=True)]
    missing = task.review.progress.missing if task.review else 0
    why = f"it would wait until people have reviewed {missing:,} of {counted(rows, 'row')}"
    return PreviewStep(step.name, step.operator.name, "waits", why, rows_in=len(rows), rows=tuple(rows), notes=tuple(notes))


_Made = tuple[PreviewRow, dict[str, list[tuple[int, ...]]]]
"""A row, and the seeds of what it made, by output."""


def _of_row(step: Step, version: int, part: Partition, receipt: Receipt, seeds: Seeds, store: ObjectStore) -> _Made:
    """A partition of one row."""
    assert part.rows_in
    assert step.operator.streamed
    link = step.inputs[step.operator.streamed][version]
    own = seeds[link_key(link)][part.first]
    row = store.read_table(part.rows_in.sha256).slice(part.rows_in.start, 1).to_pylist()[0]
    outputs = tuple(_outputs(receipt.outputs, store))
    reasons = _reasons(receipt, store)
    whole = bool(receipt.rejected)
    made = {name: [own] * (out.data.rows if out.data else 0) for name, out in receipt.outputs.items()}
    shown = PreviewRow(
        own,
        row,
        tuple(_calls(receipt.outputs, store)),
        outputs,
        reasons[-1] if whole and reasons else None,
        tuple(reasons[:-1] if whole else reasons),
    )
    return shown, made


def _of_whole(step: Step, receipt: Receipt, seeds: Seeds, store: ObjectStore) -> _Made:
    """The only partition of an operator on whole inputs."""
    before = [[each for link in step.inputs.get(port, ()) for each in seeds[link_key(link)]] for port in step.operator.inputs]
    every = tuple(sorted({seed for rows in before for row in rows for seed in row}))
    made = {name: _descent(out, before, every, store) for name, out in receipt.outputs.items()}
    calls, outputs = tuple(_calls(receipt.outputs, store)), tuple(_outputs(receipt.outputs, store))
    return PreviewRow(every, None, calls, outputs, None, tuple(_reasons(receipt, store))), made


def _descent(
    out: OutputPart, before: Sequence[Sequence[tuple[int, ...]]], every: tuple[int, ...], store: ObjectStore
) -> list[tuple[int, ...]]:
    """The seeds of an output's rows.

    A single row that was made from all rows has none, because more input rows do not make more of it.
    """
    rows = out.data.rows if out.data else 0
    found: list[set[int]] = [set() for _ in range(rows)]
    if out.lineage:
        table = store.read_table(out.lineage.sha256)
        edges = zip(*(table[name].to_pylist() for name in ("child_row", "input", "parent_row")), strict=True)
        for child, number, parent in edges:
            found[child].update(before[number][parent])
    if rows == 1 and (not found[0] or len(found[0]) == len(every) > 1):
        return [()]
    return [tuple(sorted(each)) or every for each in found]


def _outputs(outputs: Mapping[str, OutputPart], store: ObjectStore) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in outputs.items():
        if part.data:
            yield from ((name, row) for row in store.read_table(part.data.sha256).to_pylist())


def _calls(outputs: Mapping[str, OutputPart], store: ObjectStore) -> Iterator[PreviewCall]:
    known = set()
    for part in outputs.values():
        for call in store.read_table(part.calls.sha256).to_pylist() if part.calls else ():
            # A call that helped to make several rows is there for each of them.
            if call["call_id"] in known:
                continue
            known.add(call["call_id"])
            names = ("call_id", "role", "model", "response", "tokens_in", "tokens_out", "latency_ms", "cost_usd")
            yield PreviewCall(messages=tuple(json.loads(call["prompt"])), **{name: call[name] for name in names})


def _reasons(receipt: Receipt, store: ObjectStore) -> list[str]:
    return [] if receipt.rejects is None else store.read_table(receipt.rejects.sha256).column("reason").to_pylist()
