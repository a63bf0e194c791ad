"""The summary of a run, for people and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.cli.invocation import again, propose
from engine.cli.metrics_view import metrics_in_words
from engine.cli.output import grid
from engine.cli.plan_view import named, review_document, source_note, waits_for
from registry import Metric, Report
from registry.counted import counted

if TYPE_CHECKING:
    from rich.console import Console

    from engine.planning.results import SourcePlan
    from engine.planning.reviews import StepReview
    from engine.running.result import RunResult, StepResult


def run_document(result: RunResult) -> dict[str, Any]:
    """A run as data."""
    return {
        "run_id": result.run_id,
        "pipeline": result.pipeline,
        "state": result.state,
        "error": result.error,
        "seconds": round(result.seconds, 3),
        "sources": [
            {**named(s.name, "name"), "status": s.status, "rows": s.rows, "rejected": s.rejected, "format": s.format}
            for s in result.sources
        ],
        "steps": [
            {**step.record.model_dump(), "outputs": {str(m.ref): m.rows for m in step.outputs}}
            | {"reject_reasons": dict(step.reasons), "notes": list(step.notes), "review": review_document(step.review)}
            for step in result.steps
        ],
    }


def print_run(result: RunResult, reports: Sequence[Report], registry: str, console: Console) -> None:
    """Print the summary of a run: what ran, how many rows survived and why others did not, where they are, what to try next.

    Args:
        result: the run.
        reports: the reports that its steps wrote.
        registry: the registry's folder or URL, as the user gave it.
        console: where to print.
    """
    console.print()
    verbs = {"succeeded": "finished", "failed": "failed", "interrupted": "was interrupted", "waiting": "waits for reviews"}
    when = "after" if result.state == "waiting" else "in"
    console.print(f"Pipeline {result.pipeline} {verbs[result.state]} {when} {result.seconds:.1f} s (run {result.run_id})")
    console.print()
    rows = [[source.name, "source", _source_outcome(source), "", source.rows, source_note(source)] for source in result.sources]
    rows += [_step_row(step) for step in result.steps]
    console.print(grid(["step", "op", "outcome", "rows in", "rows out", "details"], rows, cell=None, counts=True))
    calls, reused = (sum(getattr(step.record, name) for step in result.steps) for name in ("calls", "calls_reused"))
    if calls or reused:
        tokens = sum(step.record.tokens_in + step.record.tokens_out for step in result.steps)
        cost = sum(step.record.cost_usd for step in result.steps)
        paid = f", ${cost:.4f}" if cost else ""
        console.print(f"\nModel calls: {calls:,} new ({counted(tokens, 'token')}{paid}), {reused:,} from the journal.")
    for step in result.steps:
        for note in step.notes:
            console.print(f"\nNote on {step.record.full_step}: {note}.", soft_wrap=True)
    for step in result.steps:
        if step.review:
            print_review(step.record.full_step, step.review, console)
    if result.state == "waiting":
        console.print(f"\nThen run again; what is finished is kept:\n  {again()}", soft_wrap=True)
        return
    if result.error:
        console.print()
        if (failed := sum(step.record.outcome == "failed" for step in result.steps)) > 1:
            console.print(f"{failed} steps failed:")
        console.print(result.error, soft_wrap=True)
        # Without the option, the answers come from the journal and are rejected again.
        retry = any(step.record.outcome == "failed" and _may_differ(step) for step in result.steps)
        command = again("--retry-rejects") if retry else again()
        console.print(f"Finished work is kept. To continue:\n  {command}", soft_wrap=True)
        return
    console.print(f"\nThe results are in {registry}:")
    outputs = [manifest for step in result.steps for manifest in step.outputs]
    console.print(grid(["version", "kind", "type", "rows"], [[m.ref, m.kind, m.type, m.rows] for m in outputs], counts=True))
    for report in reports:
        console.print()
        print_report(report, console)
    if not result.moves_latest:
        trial = "--set changed parameters, so these versions did not become the latest. To make them the latest:"
        console.print(f"\n{trial}\n  {again('--latest')}", soft_wrap=True)
    first = [again("--retry-rejects")] if any(_may_differ(step) for step in result.steps) else []
    console.print("\nTry next:")
    for line in [*first, *_suggestions(result)]:
        console.print(f"  {line}", soft_wrap=True)


def print_review(step: str, review: StepReview, console: Console) -> None:
    """Print how many rows of a step wait for reviewers, and how to review them."""
    console.print(f"\nStep {step} waits: {waits_for(review)}. To review rows:", soft_wrap=True)
    console.print(f"  {propose('ui')}", soft_wrap=True)
    console.print("Or without a browser, fill in a file and import it:", soft_wrap=True)
    console.print(f"  {propose('reviews', 'export', review.queue, 'reviews.jsonl')}", soft_wrap=True)
    console.print(f"  {propose('reviews', 'import', 'reviews.jsonl')}", soft_wrap=True)


def print_report(report: Report, console: Console) -> None:
    """Print a report: as Markdown, laid out on a terminal."""
    from rich.markdown import Markdown

    text = f"# {report.title}\n\n{report.text}"
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=not console.is_terminal)


def _may_differ(step: StepResult) -> bool:
    """Whether retrying the rejected rows can help: only a server may answer differently the next time."""
    return bool(step.record.rejected) and step.asks_api


def _source_outcome(source: SourcePlan) -> str:
    return "unchanged" if source.status == "HIT" else "read"


def _step_row(step: StepResult) -> list[Any]:
    record = step.record
    shown = {"hit": "unchanged", "failed": "FAILED"}.get(record.outcome, record.outcome)
    return [record.full_step, record.op, shown, record.rows_in, record.rows_out, _fate(step)]


def _fate(step: StepResult) -> str:
    """A phrase about a step's rows: how many were made, rejected, and so on."""
    record = step.record
    parts = []
    if record.outcome == "stopped":
        parts.append("finished partitions are kept")
    elif step.review:
        parts.append(waits_for(step.review))
    elif not record.rows_in:
        parts.append("no input rows")
    if len(step.outputs) > 1:
        parts.append(", ".join(f"{manifest.rows:,} {manifest.output}" for manifest in step.outputs))
    if record.filtered:
        parts.append(f"{record.filtered:,} filtered")
    if record.unused:
        parts.append(f"{record.unused:,} unused")
    if record.rejected or step.partial:
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in step.reasons)
        counted_as = [f"{record.rejected:,} rejected"] if record.rejected else []
        counted_as += [f"{step.partial:,} partly rejected"] if step.partial else []
        parts.append(f"{', '.join(counted_as)} ({reasons})")
    parts += metrics_in_words(step.metrics)
    if series := _first_series(step.metrics):
        parts.append(f"{series[0].metric} {series[0].value:.3f} -> {series[-1].value:.3f} in {counted(series, 'step')}")
    return "; ".join(parts)


def _first_series(metrics: Sequence[Metric]) -> list[Metric]:
    """The first measure that was reported by step, for example that of a training."""
    series = [metric for metric in metrics if metric.slice.startswith("step ")]
    return [metric for metric in series if metric.metric == series[0].metric]


def _suggestions(result: RunResult) -> list[str]:
    """Three commands that show something of this run."""
    # A step's first output is its main result; the others have the rest.
    first = [step.outputs[0] for step in result.steps if step.outputs]
    datasets = [manifest for manifest in first if manifest.kind == "dataset" and manifest.rows]
    if not datasets:
        made = [propose("show", str(manifest.ref)) for manifest in first[-1:]]
        return [propose("ls"), propose("runs"), *made]
    last = datasets[-1]
    name = last.name if result.moves_latest else str(last.ref)
    called = any(side.kind == "calls" for step in result.steps for manifest in step.outputs for side in manifest.side)
    calls = "select name, version, row, prompt, response from llm_calls limit 5"
    return [
        propose("head", name),
        propose("sql", f"from trace('{last.ref}', 0)"),
        propose("sql", calls) if called else propose("show", name),
    ]
