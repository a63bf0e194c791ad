"""Progress of a run on stderr: a live bar for each running step on a terminal, plain lines elsewhere.

Several steps may be under way at once, and their events come from several threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from engine.printable import duration
from engine.running.result import StepResult
from registry.counted import counted

_LINE_EVERY_SECONDS = 10.0
_LONGEST_GAP_SECONDS = 600.0

_WINDOW_SECONDS = 60.0
"""The rate is that of the last minute."""
_FEWEST = 3
"""Times at which rows finished that a rate needs, however long ago they were."""
_SHORTEST_SECONDS = 5.0
"""How long the first of these must be ago."""


def describe(result: StepResult) -> str:
    """A finished step in one line."""
    record = result.record
    made = "its finished partitions are kept" if record.outcome == "stopped" else f"{record.rows_out:,} out"
    parts = [f"{counted(record.rows_in, 'row')} in, {made}"]
    if record.rejected:
        parts.append(f"{record.rejected:,} rejected")
    if record.calls or record.calls_reused:
        parts.append(
            counted(record.calls, "call") + (f" + {record.calls_reused:,} from the journal" if record.calls_reused else "")
        )
    return f"{record.outcome}: " + ", ".join(parts) + f" ({record.seconds:.1f} s)"


class PlainProgress:
    """Lines for logs and pipes: the start of a step, its progress with rate and remaining time, its end.

    Each running step has a line every ten seconds while its rows finish. While nothing changes, the interval doubles: 10,
    20, 40 seconds and so on, up to ten minutes. While the total grows, the remaining time is unknown, and so is the rate until
    rows have finished a few times: the first ones also waited for models to load and connections to open.

    Args:
        console: where to print.
        clock: returns monotonic seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._paces: dict[str, _Pace] = {}

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def message(self, text: str) -> None:
        self._line(text)

    def step_started(self, step: str, op: str, rows: int, done: int) -> None:
        self._paces[step] = _Pace(self._clock(), done, rows)
        resumed = f", {done:,} of them already done" if done else ""
        self._line(f"{step}: {op} on {counted(rows, 'row')}{resumed}")

    def step_advanced(self, step: str, done: int, total: int, note: str) -> None:
        now, pace, state = self._clock(), self._paces.get(step), (done, total, note)
        if pace is None:
            return
        pace = self._paces[step] = pace.having(now, done)
        if not pace.is_due(now, state):
            return
        self._paces[step] = pace.after(now, state)
        waiting = "" if state != pace.shown else f", unchanged for {now - pace.changed:.0f} s"
        so_far = " so far" if total > pace.total else ""
        self._line(
            f"{step}: {done:,}/{total:,}{so_far}{pace.outlook(now, done, total)}{waiting}" + (f"; {note}" if note else "")
        )

    def step_finished(self, result: StepResult) -> None:
        self._paces.pop(result.record.full_step, None)
        self._line(f"{result.record.full_step}: {describe(result)}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _Pace:
    """How fast a step progresses, and when its next line is due.

    Args:
        finished: when rows finished lately, and how many were done then.
        total: the total of the last line, or the one at the start.
        shown: done, total and note of the last line.
        changed: the time when those were first shown.
    """

    began: float
    done_before: int
    total: int
    finished: tuple[tuple[float, int], ...] = ()
    shown: tuple[int, int, str] | None = None
    changed: float = 0.0
    gap: float = _LINE_EVERY_SECONDS
    line_at: float | None = None

    def having(self, now: float, done: int) -> _Pace:
        """The pace when so many rows are done."""
        if done == (self.finished[-1][1] if self.finished else self.done_before):
            return self
        return replace(self, finished=(*_recent(self.finished, now), (now, done)))

    def is_due(self, now: float, shown: tuple[int, int, str]) -> bool:
        gap = self.gap if shown == self.shown else _LINE_EVERY_SECONDS
        return now - (self.began if self.line_at is None else self.line_at) >= gap

    def after(self, now: float, shown: tuple[int, int, str]) -> _Pace:
        """The pace after a line that shows this."""
        if shown == self.shown:
            return replace(self, line_at=now, gap=min(2 * self.gap, _LONGEST_GAP_SECONDS))
        return replace(self, line_at=now, gap=_LINE_EVERY_SECONDS, shown=shown, changed=now, total=shown[1])

    def outlook(self, now: float, done: int, total: int) -> str:
        """Rate and remaining time, as far as they are known."""
        recent = _recent(self.finished, now)
        if len(recent) < _FEWEST or now - recent[0][0] < _SHORTEST_SECONDS or done <= recent[0][1]:
            return ""
        rate = (done - recent[0][1]) / (now - recent[0][0])
        if total > self.total:
            return f" ({rate:.3g}/s)"
        return f" ({rate:.3g}/s, about {duration((total - done) / rate)} left)" if done < total else ""


def _recent(finished: tuple[tuple[float, int], ...], now: float) -> tuple[tuple[float, int], ...]:
    """Those of the window, and at least the last few."""
    return tuple(each for each in finished[:-_FEWEST] if each[0] >= now - _WINDOW_SECONDS) + finished[-_FEWEST:]


class LiveProgress:
    """A live bar for each running step. When a step ends, its bar becomes a line above the others.

    So a run of many steps takes no more of the terminal than the steps that are under way; bars that do not fit are left out.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.fields[step]}[/bold]"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._bars: dict[str, _Bar] = {}

    def __enter__(self) -> LiveProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def message(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def step_started(self, step: str, op: str, rows: int, done: int) -> None:
        task = self._progress.add_task(step, total=max(rows, 1), completed=done, step=step, note=f"{op} starting")
        self._bars[step] = _Bar(task, op)

    def step_advanced(self, step: str, done: int, total: int, note: str) -> None:
        if bar := self._bars.get(step):
            self._progress.update(bar.task, completed=done, total=max(total, 1), note=note or bar.op)

    def step_finished(self, result: StepResult) -> None:
        record = result.record
        if bar := self._bars.pop(record.full_step, None):
            self._progress.remove_task(bar.task)
            self._progress.refresh()  # or its bar would be seen below its line for a moment
        mark, style = _MARKS.get(record.outcome, ("✓", "green"))
        line = Text.assemble((mark, style), " ", (record.full_step, "bold"), f" {describe(result)}")
        self._progress.console.print(line, highlight=False, soft_wrap=True)


class _Bar(NamedTuple):
    task: TaskID
    op: str


_MARKS = {"failed": ("✗", "red"), "stopped": ("■", "yellow")}
"""The mark of a step that did not succeed, and its colour."""


def progress_on(console: Console) -> PlainProgress | LiveProgress:
    """Bars for a terminal, lines for anything else."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)
