"""Progress of a run on stderr: a live bar for each step on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from engine.running.result import StepResult

_LINE_EVERY_SECONDS = 10.0
_LONGEST_GAP_SECONDS = 600.0


def describe(result: StepResult) -> str:
    """A finished step in one line."""
    record = result.record
    parts = [f"{record.rows_in} rows in, {record.rows_out} out"]
    if record.rejected:
        parts.append(f"{record.rejected} rejected")
    if record.calls or record.calls_reused:
        parts.append(f"{record.calls} calls" + (f" + {record.calls_reused} from the journal" if record.calls_reused else ""))
    return f"{record.outcome}: " + ", ".join(parts) + f" ({record.seconds:.1f} s)"


class PlainProgress:
    """Lines for logs and pipes: the start of a step, its progress with rate and remaining time, its end.

    There is a line every ten seconds while rows finish. While nothing changes, the interval doubles: 10, 20, 40 seconds and
    so on, up to ten minutes.

    Args:
        console: where to print.
        clock: returns monotonic seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._step: _Pace | None = None

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def message(self, text: str) -> None:
        self._line(text)

    def step_started(self, step: str, op: str, rows: int, done: int) -> None:
        self._step = _Pace(self._clock(), done)
        resumed = f", {done} of them already done" if done else ""
        self._line(f"{step}: {op} on {rows} rows{resumed}")

    def step_advanced(self, step: str, done: int, total: int, note: str) -> None:
        now, pace = self._clock(), self._step
        if pace is None or not pace.is_due(now, (done, note)):
            return
        self._step = pace.after(now, (done, note))
        waiting = "" if (done, note) != pace.shown else f", unchanged for {now - pace.changed:.0f} s"
        self._line(f"{step}: {done}/{total}{pace.outlook(now, done, total)}{waiting}" + (f"; {note}" if note else ""))

    def step_finished(self, result: StepResult) -> None:
        self._line(f"{result.record.step}: {describe(result)}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _Pace:
    """How fast a step progresses, and when its next line is due."""

    began: float
    done_before: int
    shown: tuple[int, str] | None = None
    changed: float = 0.0
    gap: float = _LINE_EVERY_SECONDS
    line_at: float | None = None

    def is_due(self, now: float, shown: tuple[int, str]) -> bool:
        gap = self.gap if shown == self.shown else _LINE_EVERY_SECONDS
        return now - (self.began if self.line_at is None else self.line_at) >= gap

    def after(self, now: float, shown: tuple[int, str]) -> _Pace:
        """The pace after a line that shows this."""
        if shown == self.shown:
            return replace(self, line_at=now, gap=min(2 * self.gap, _LONGEST_GAP_SECONDS))
        return replace(self, line_at=now, gap=_LINE_EVERY_SECONDS, shown=shown, changed=now)

    def outlook(self, now: float, done: int, total: int) -> str:
        """Rate and remaining time; empty while they are unknown."""
        fresh = done - self.done_before
        if fresh <= 0 or now <= self.began:
            return ""
        rate = fresh / (now - self.began)
        return f" ({rate:.3g}/s, about {_duration((total - done) / rate)} left)" if done < total else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class LiveProgress:
    """A live bar for each step."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("[bold]{task.fields[step]}[/bold]"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._ops: dict[str, str] = {}

    def __enter__(self) -> LiveProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def message(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def step_started(self, step: str, op: str, rows: int, done: int) -> None:
        self._ops[step] = op
        self._tasks[step] = self._progress.add_task(step, total=max(rows, 1), completed=done, step=step, note=f"{op} starting")

    def step_advanced(self, step: str, done: int, total: int, note: str) -> None:
        self._progress.update(self._tasks[step], completed=done, total=max(total, 1), note=note or self._ops[step])

    def step_finished(self, result: StepResult) -> None:
        record = result.record
        task = self._tasks.get(record.step)
        if task is None:
            task = self._progress.add_task(record.step, total=max(record.rows_in, 1), step=record.step, note="")
        rows = max(record.rows_in, 1)
        failed = record.outcome == "failed"
        self._progress.update(task, note=describe(result), total=rows, completed=None if failed else rows)
        self._progress.stop_task(task)


def progress_on(console: Console) -> PlainProgress | LiveProgress:
    """Bars for a terminal, lines for anything else."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)
