"""A preview, for people and as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.cli.forecast_view import forecast_document, print_forecast
from engine.cli.invocation import again
from engine.cli.metrics_view import metrics_in_words
from engine.cli.output import cell_text, grid
from engine.printable import row_count
from registry.counted import counted

if TYPE_CHECKING:
    from rich.console import Console

    from engine.previewing.results import Preview, PreviewCall, PreviewRow, PreviewStep

_VALUE = 80
"""Characters of a field that are shown."""
_TEXT = 240
"""Characters of a prompt or an answer that are shown."""
_OUTPUTS = 3
"""Output rows of an input row that are shown."""
_REASONS = 3


def preview_document(preview: Preview) -> dict[str, Any]:
    """A preview as data."""
    document = asdict(preview)
    del document["trace"]
    document["sampled"] = [each._asdict() for each in preview.sampled]
    for step in document["steps"]:
        step["metrics"] = [metric.model_dump(mode="json") for metric in step["metrics"]]
        for row in step["rows"]:
            row["outputs"] = [{"output": output, "row": fields} for output, fields in row["outputs"]]
    return document | {"forecast": forecast_document(preview.forecast) if preview.forecast else None}


def print_step(step: PreviewStep, most: int, console: Console, *, full: bool) -> None:
    """Print the rows of a step side by side: input, prompt, answer, output.

    Args:
        most: the maximum number of rows to show.
        full: show all of them, and nothing shortened.
    """
    from rich import box
    from rich.table import Table

    console.print(f"\n{step.name}: {step.op}, {_fate(step)}", soft_wrap=True)
    for note in step.notes:
        console.print(f"Note: {note}.", soft_wrap=True)
    rows = step.rows if full else step.rows[:most]
    if not rows:
        return
    asks = any(row.calls for row in step.rows)
    columns = ["input", "prompt", "answer", "output"] if asks else ["input", "output"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_lines=True)
    for name in columns:
        table.add_column(name, ratio=1, overflow="fold")
    for row in rows:
        calls = [_prompts(row.calls, full=full), _answers(row.calls, full=full)] if asks else []
        table.add_row(_input(row, step, full=full), *calls, _output(row, step, full=full))
    console.print(table)
    if len(rows) < len(step.rows):
        console.print(f"and {len(step.rows) - len(rows):,} more (--full shows all)")


def print_preview(preview: Preview, console: Console) -> None:
    """Print what survived each step, what the preview has cost, and the forecast."""
    console.print()
    verb = {"done": "finished", "failed": "failed", "interrupted": "was interrupted"}[preview.state]
    drawn = ", ".join(f"{each.drawn:,} of {row_count(each.rows)} of {each.name}" for each in preview.sampled)
    console.print(
        f"Preview of {preview.pipeline} {verb} in {preview.seconds:.1f} s: {drawn or 'nothing to run'}", soft_wrap=True
    )
    console.print()
    rows = [
        [each.name, each.op, each.state, each.rows_in or "", sum(each.rows_out.values()) or "", _fate(each)]
        for each in preview.steps
    ]
    console.print(grid(["step", "op", "preview", "rows in", "rows out", "details"], rows, cell=None, counts=True))
    calls, reused = (sum(getattr(each, name) for each in preview.steps) for name in ("calls", "calls_reused"))
    if calls or reused:
        tokens = sum(each.tokens_in + each.tokens_out for each in preview.steps)
        cost = sum(each.cost_usd for each in preview.steps)
        paid = f", ${cost:.4f}" if cost else ""
        new = f"{calls:,} new ({counted(tokens, 'token')}{paid})"
        console.print(f"\nModel calls: {new}, {reused:,} from the journal. A run does not send them again.")
    if preview.forecast:
        print_forecast(preview.forecast, console)
    if preview.error:
        console.print(f"\n{preview.error}", soft_wrap=True)
        console.print(f"All answers are kept. To continue:\n  {again()}", soft_wrap=True)


def _fate(step: PreviewStep) -> str:
    """What became of a step's rows, in words."""
    if step.state in ("up to date", "skipped", "not reached"):
        return step.why
    if step.state == "waits":
        return step.why
    parts = [step.why] if step.why else []
    parts.append(f"{row_count(step.rows_in)} in, " + ", ".join(_made(step.rows_out)))
    parts += [f"{getattr(step, name):,} {name}" for name in ("filtered", "unused") if getattr(step, name)]
    if step.rejected or step.reasons:
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in list(step.reasons.items())[:_REASONS])
        parts.append(f"{step.rejected:,} rejected ({reasons})")
    if step.calls or step.calls_reused:
        known = f" + {step.calls_reused:,} from the journal" if step.calls_reused else ""
        parts.append(f"{counted(step.calls, 'call')}{known}")
    return "; ".join([*parts, *metrics_in_words(step.metrics)])


def _made(rows_out: Mapping[str, int]) -> Iterable[str]:
    return (f"{rows:,} {output or 'out'}" for output, rows in rows_out.items())


def _input(row: PreviewRow, step: PreviewStep, *, full: bool) -> str:
    return f"all {row_count(step.rows_in)}" if row.input is None else _fields(row.input, full=full)


def _output(row: PreviewRow, step: PreviewStep, *, full: bool) -> str:
    """The rows that were made: of each, the fields that are not those of the input."""
    parts = []
    shown = row.outputs if full else row.outputs[:_OUTPUTS]
    for output, fields in shown:
        new = {
            name: value
            for name, value in fields.items()
            if row.input is None or name not in row.input or row.input[name] != value
        }
        name = f"[{output}]\n" if output and len(step.rows_out) > 1 else ""
        parts.append(name + (_fields(new, full=full) if new else "unchanged"))
    if len(shown) < len(row.outputs):
        parts.append(f"and {len(row.outputs) - len(shown):,} more")
    parts += [f"partly rejected: {cell_text(reason, None if full else _TEXT)}" for reason in row.partly_rejected]
    if row.rejected is not None:
        parts.append(f"rejected: {cell_text(row.rejected, None if full else _TEXT)}")
    return "\n".join(parts) or ("waits for reviewers" if step.state == "waits" else "filtered")


def _fields(fields: Mapping[str, Any], *, full: bool) -> str:
    limit = None if full else _VALUE
    return "\n".join(f"{name}: {cell_text(value, limit)}" for name, value in fields.items() if value is not None)


def _prompts(calls: Sequence[PreviewCall], *, full: bool) -> str:
    if full:
        return _numbered("\n".join(f"{each['role']}: {each['content']}" for each in call.messages) for call in calls)
    texts: list[str] = []
    for call in calls:
        # The last message is what differs between rows, and of a long one rather the end.
        text = _middle_out(cell_text(call.messages[-1]["content"], None))
        texts.append("the same" if text in texts else text)
    return _numbered(texts)


def _middle_out(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[: _TEXT // 3]} … {text[-_TEXT * 2 // 3 :]}"


def _answers(calls: Sequence[PreviewCall], *, full: bool) -> str:
    return _numbered(call.response if full else cell_text(call.response, _TEXT) for call in calls)


def _numbered(texts: Iterable[str]) -> str:
    found = list(texts)
    return "\n".join(found) if len(found) == 1 else "\n".join(f"{number}. {text}" for number, text in enumerate(found, 1))
