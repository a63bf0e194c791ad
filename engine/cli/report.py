"""What commands tell people: the plan, the summary of a run, an operator's page."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from engine.cli.invocation import again, propose
from engine.cli.output import grid, plain
from engine.operator.declaration import SINGLE, Operator
from engine.planning.plan import Plan, SourcePlan
from engine.running.result import RunResult, StepOutcome
from registry import Metric, Report
from registry.records.schema import fields_of

# -- plan ---------------------------------------------------------------------------------------------------------


def plan_rows(plan: Plan) -> list[dict[str, Any]]:
    """The plan as data."""
    rows: list[dict[str, Any]] = [
        {"step": source.name, "op": "source", "status": source.status, "rows": source.rows, "rejected": source.rejected}
        | {"ignored_fields": list(source.ignored)}
        for source in plan.sources
    ]
    return rows + [
        {"step": step.name, "op": step.op, "status": step.status, "partitions_done": step.done, "partitions": step.total}
        | {"rows": step.rows, "max_calls": step.calls, "max_tokens": step.tokens, "max_cost_usd": step.cost_usd}
        | {"waits_for": list(step.waits_for), "why": list(step.why), "notes": list(step.notes)}
        for step in plan.steps
    ]


def print_plan(plan: Plan, console: Console) -> None:
    """The plan as a table, and its sums."""
    rows = [[s.name, "source", s.status, s.rows, "", "", "", _source_note(s)] for s in plan.sources]
    for step in plan.steps:
        status = f"RESUME {step.done} of {step.total}" if step.status == "RESUME" else step.status
        cost = f"${step.cost_usd:.2f}" if step.cost_usd else ""
        note = f"for {', '.join(step.waits_for)}" if step.waits_for else ""
        shown_rows: Any = "?" if step.rows is None else step.rows
        rows.append([step.name, step.op, status, shown_rows, step.calls or "", step.tokens or "", cost, note])
    console.print(grid(["step", "op", "plan", "rows", "calls ≤", "tokens ≤", "price ≤", ""], rows))
    for step in plan.steps:
        for line in (*step.notes, *step.why):
            console.print(f"{step.name}: {line}", soft_wrap=True)
    counts = {status: sum(step.status == status for step in plan.steps) for status in ("HIT", "RUN", "RESUME", "WAIT")}
    if counts["HIT"] == len(plan.steps):
        console.print("Nothing to do: every step is there already.")
        return
    console.print(
        "HIT is there already, RUN is to be made, RESUME goes on where an earlier run stopped, WAIT depends on a step "
        "that has not run. Calls, tokens and price are upper bounds; answers in the journal cost nothing.",
        soft_wrap=True,
    )


def _source_note(source: SourcePlan) -> str:
    notes = ["empty!"] if not source.rows else []
    if source.rejected:
        notes.append(f"rows left out: {source.rejected} (`rejects` says why)")
    if source.ignored:
        fields = (name if count == source.rows else f"{name} ({count:,})" for name, count in source.ignored.items())
        notes.append(f"fields left out: {', '.join(fields)}")
    return "; ".join(notes)


# -- run ----------------------------------------------------------------------------------------------------------


def run_document(result: RunResult) -> dict[str, Any]:
    """A run as data."""
    return {
        "run_id": result.run_id,
        "pipeline": result.pipeline,
        "state": result.state,
        "error": result.error,
        "seconds": round(result.seconds, 3),
        "sources": [{"name": s.name, "status": s.status, "rows": s.rows, "rejected": s.rejected} for s in result.sources],
        "steps": [
            {**outcome.record.model_dump(), "outputs": {str(m.ref): m.rows for m in outcome.outputs}}
            | {"reject_reasons": dict(outcome.reasons), "notes": list(outcome.notes)}
            for outcome in result.steps
        ],
    }


def print_run(result: RunResult, reports: Sequence[Report], registry: str, console: Console) -> None:
    """The summary of a run: what ran, what survived and why the rest did not, where it is, what to try next.

    Args:
        result: the run.
        reports: those that its steps wrote.
        registry: its folder, as the user knows it.
        console: where to.
    """
    console.print()
    verb = {"succeeded": "finished", "failed": "failed", "interrupted": "was interrupted"}[result.state]
    console.print(f"Pipeline {result.pipeline} {verb} in {result.seconds:.1f} s (run {result.run_id})")
    console.print()
    rows = [
        [source.name, "source", _source_outcome(source), "", source.rows, _source_note(source)] for source in result.sources
    ]
    rows += [_step_row(outcome, result.state) for outcome in result.steps]
    console.print(grid(["step", "op", "outcome", "rows in", "rows out", "what became of the rows"], rows, cell=None))
    calls, reused = (sum(getattr(o.record, name) for o in result.steps) for name in ("calls", "calls_reused"))
    if calls or reused:
        tokens = sum(o.record.tokens_in + o.record.tokens_out for o in result.steps)
        cost = sum(o.record.cost_usd for o in result.steps)
        paid = f", ${cost:.4f}" if cost else ""
        console.print(f"\nModel calls: {calls} new ({tokens:,} tokens{paid}), {reused} answered from the journal.")
    for outcome in result.steps:
        for note in outcome.notes:
            console.print(f"\nNote on {outcome.record.step}: {note}.", soft_wrap=True)
    if result.error:
        console.print(f"\n{result.error}", soft_wrap=True)
        # Without the option, answers in the journal would lead to the same rejects.
        retry = any(outcome.record.outcome == "failed" and _may_differ(outcome) for outcome in result.steps)
        command = again("--retry-rejects") if retry else again()
        console.print(f"Finished work is kept. To continue from here:\n  {command}", soft_wrap=True)
        return
    console.print(f"\nEverything is in {registry}; the newest versions are:")
    outputs = [manifest for outcome in result.steps for manifest in outcome.outputs]
    console.print(grid(["version", "kind", "type", "rows"], [[m.ref, m.kind, m.type, m.rows] for m in outputs]))
    for report in reports:
        console.print()
        print_report(report, console)
    if not result.moves_latest:
        trial = "This was a trial with other parameters (--set), so `latest` stays where it was. To move it:"
        console.print(f"\n{trial}\n  {again('--latest')}", soft_wrap=True)
    first = [again("--retry-rejects")] if any(_may_differ(outcome) for outcome in result.steps) else []
    console.print("\nTry next:")
    for line in [*first, *_suggestions(result)]:
        console.print(f"  {line}", soft_wrap=True)


def print_report(report: Report, console: Console) -> None:
    """A report; for a terminal its Markdown is laid out."""
    text = f"# {report.title}\n\n{report.text}"
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=not console.is_terminal)


def _may_differ(outcome: StepOutcome) -> bool:
    """Whether asking again for the rejected rows can help: only a server may answer differently the next time."""
    return bool(outcome.record.rejected) and outcome.asks_api


def _source_outcome(source: SourcePlan) -> str:
    return "unchanged" if source.status == "HIT" else "read"


def _step_row(outcome: StepOutcome, state: str) -> list[Any]:
    record = outcome.record
    failed = "INTERRUPTED" if state == "interrupted" else "FAILED"
    shown = {"hit": "unchanged", "ran": "ran", "resumed": "resumed", "failed": failed}[record.outcome]
    return [record.step, record.op, shown, record.rows_in, record.rows_out, _fate(outcome)]


def _fate(outcome: StepOutcome) -> str:
    """Where a step's rows went, in words."""
    record = outcome.record
    parts = []
    if not record.rows_in:
        parts.append("nothing came in!")
    if len(outcome.outputs) > 1:
        parts.append(", ".join(f"{manifest.rows} {manifest.output}" for manifest in outcome.outputs))
    if record.filtered:
        parts.append(f"{record.filtered} filtered")
    if record.unused:
        parts.append(f"{record.unused} unused")
    if record.rejected or outcome.partial:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in outcome.reasons)
        counted_as = [f"{record.rejected} rejected"] if record.rejected else []
        counted_as += [f"{outcome.partial} rejected in part"] if outcome.partial else []
        parts.append(f"{', '.join(counted_as)} ({reasons})")
    parts += _numbers(outcome.metrics)
    losses = [metric for metric in outcome.metrics if metric.metric == "loss"]
    if losses:
        parts.append(f"loss {losses[0].value:.3f} -> {losses[-1].value:.3f} in {len(losses)} steps")
    return "; ".join(parts)


def _numbers(metrics: Sequence[Metric]) -> list[str]:
    """Counters and measures by slice, as many as a glance takes in; bounds of intervals are for SQL."""
    counted: dict[str, list[str]] = {}
    for metric in metrics:
        if metric.slice and not metric.slice.startswith("step ") and not metric.metric.endswith(("_ci_low", "_ci_high")):
            counted.setdefault(metric.metric, []).append(f"{_short(metric.value)} {metric.slice}")
    parts, room = [], _NUMBERS_SHOWN
    for name, values in counted.items():
        if len(values) <= min(room, _SLICES_SHOWN):
            parts.append(f"{name}: {', '.join(values)}")
            room -= len(values)
    return parts


def _short(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"


def _suggestions(result: RunResult) -> list[str]:
    """Three commands that show something of this run."""
    # A step's first output is what it is for; the others hold what fell out.
    first = [outcome.outputs[0] for outcome in result.steps if outcome.outputs]
    datasets = [manifest for manifest in first if manifest.kind == "dataset" and manifest.rows]
    if not datasets:
        made = [propose("show", str(manifest.ref)) for manifest in first[-1:]]
        return [propose("ls"), propose("runs"), *made]
    last = datasets[-1]
    name = last.name if result.moves_latest else str(last.ref)
    called = any(side.kind == "calls" for outcome in result.steps for manifest in outcome.outputs for side in manifest.side)
    calls = "select name, version, row, prompt, response from llm_calls limit 5"
    return [
        propose("head", name),
        propose("sql", f"from trace('{last.ref}', 0)"),
        propose("sql", calls) if called else propose("show", name),
    ]


# -- operators ----------------------------------------------------------------------------------------------------


def operator_document(operator: Operator) -> dict[str, Any]:
    """An operator as data."""
    return {
        "name": operator.name,
        "shape": operator.shape,
        "inputs": {name: None if port.open else port.record.type_name() for name, port in operator.inputs.items()},
        "outputs": {name: None if name in operator.like else record.type_name() for name, record in operator.outputs.items()},
        "outputs_like": dict(operator.like),
        "models": [role for role in operator.roles if role not in operator.encoders],
        "encoders": list(operator.encoders),
        "parameters": operator.params.model_json_schema(),
        "doc": operator.doc,
    }


def print_operator(operator: Operator, console: Console) -> None:
    """An operator's page: what goes in and out, its parameters, its docstring."""
    console.print(
        f"{operator.name}  (one {operator.shape} at a time)"
        if operator.shape != "whole"
        else f"{operator.name}  (whole inputs)"
    )
    console.print(f"\n{operator.doc}\n", soft_wrap=True)
    for name, port in operator.inputs.items():
        if port.open:
            console.print(f"in   {name}: rows of any type")
            continue
        fields = ", ".join(f"{key}: {label}" for key, label in fields_of(port.record.arrow_schema()).items())
        console.print(f"in   {name}: {port.record.type_name()} ({fields})", soft_wrap=True)
    for name, record in operator.outputs.items():
        shown = "" if name == SINGLE else f"{name}: "
        kind = f"rows as they came in as {operator.like[name]}" if name in operator.like else record.type_name()
        console.print(f"out  {shown}{kind}", soft_wrap=True)
    for role in operator.roles:
        console.print(f"{'encoder' if role in operator.encoders else 'model'} {role}")
    if operator.settings:
        docs = [inspect.cleandoc(vars(each).get("__doc__") or "") for each in reversed(operator.params.__mro__)]
        console.print("\n" + "\n\n".join(doc for doc in docs if "\nArgs:" in doc), soft_wrap=True)
    schema = operator.params.model_json_schema()
    rows = []
    for name, field in operator.params.model_fields.items():
        default = "required" if field.is_required() else json.dumps(plain(_default(field.default)))
        rows.append([name, _type_of(schema["properties"][name]), default])
    if rows:
        console.print()
        console.print(grid(["parameter (with:)", "type", "default"], rows))


def _default(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value


def _type_of(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_type_of(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("type", "any")), *bounds])


_SLICES_SHOWN = 8
"""Of a counter; one with more slices is for SQL."""
_NUMBERS_SHOWN = 16
"""Of a step's counters."""

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
