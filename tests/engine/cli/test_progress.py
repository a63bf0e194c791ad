"""Progress: what each running step waits for, its rate, the remaining time, and no line twice; bars on a terminal."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from engine.cli.progress import LiveProgress, PlainProgress, describe
from engine.running.result import StepResult
from registry import StepRun
from tests.clock import Clock


def finished(step: str, outcome: Any = "ran", **counts: int) -> StepResult:
    return StepResult(StepRun(step=step, op="test", outcome=outcome, seconds=1.5, **counts))


class Watched:
    """A step of 1,000 rows that reports to a log, with a clock that the test controls."""

    def __init__(self, done: int = 0) -> None:
        self.now, self.done = 100.0, done
        self.text = StringIO()
        self.progress = PlainProgress(Console(file=self.text, width=200), clock=lambda: self.now)
        self.progress.step_started("cot", "regenerate_cot", 1000, done)

    def tick(self, seconds: int, done: int, note: str = "") -> list[str]:
        """Report twice a second for some time, while rows finish each second; return the new lines."""
        before, start = len(self.text.getvalue()), self.done
        for tick in range(1, 2 * seconds + 1):
            self.now += 0.5
            self.done = start + (done - start) * (tick // 2) // seconds
            self.progress.step_advanced("cot", self.done, 1000, note)
        return self.text.getvalue()[before:].splitlines()


def test_a_line_has_the_rate_and_remaining_time_of_this_run() -> None:
    watched = Watched(done=400)
    assert watched.tick(10, 500) == ["cot: 500/1,000 (10/s, about 50 s left)"]
    assert watched.tick(10, 600, "64 requests in flight") == ["cot: 600/1,000 (10/s, about 40 s left); 64 requests in flight"]
    assert watched.tick(10, 1000) == ["cot: 1,000/1,000"]


def test_there_is_no_rate_before_rows_have_finished_a_few_times() -> None:
    watched = Watched()
    watched.tick(50, 0)
    watched.progress.step_advanced("cot", 1, 1000, "")
    watched.done = 1
    assert watched.tick(30, 1)[-1] == "cot: 1/1,000, unchanged for 30 s"
    watched.done = 41  # a partition of 40 rows
    assert watched.tick(10, 41) == ["cot: 41/1,000"]
    watched.done = 81
    assert watched.tick(10, 81) == ["cot: 81/1,000 (1.6/s, about 10 min left)"]


def test_the_rate_is_that_of_the_last_minute() -> None:
    watched = Watched()
    assert watched.tick(100, 100)[-1] == "cot: 100/1,000 (1/s, about 15 min left)"
    assert watched.tick(60, 400)[-1] == "cot: 400/1,000 (5/s, about 2 min left)"
    assert watched.tick(30, 400)[1:] == ["cot: 400/1,000 (2.5/s, about 4 min left), unchanged for 30 s"]


def test_there_is_no_rate_before_the_first_row() -> None:
    assert Watched().tick(10, 0, "the server answers 503") == ["cot: 0/1,000; the server answers 503"]


def test_lines_become_rarer_if_nothing_changes() -> None:
    watched = Watched()
    lines = watched.tick(1000, 0, "waiting")
    assert lines[:3] == [
        "cot: 0/1,000; waiting",
        "cot: 0/1,000, unchanged for 10 s; waiting",
        "cot: 0/1,000, unchanged for 30 s; waiting",
    ]
    assert len(lines) == 7
    assert len(set(lines)) == 7
    watched.tick(10, 5, "waiting")
    assert len(watched.tick(40, 6)) >= 2, "lines are as frequent as before once something changes"


class Several:
    """Steps that run at once and report to a log, with a clock that the test controls."""

    def __init__(self, *steps: str) -> None:
        self.clock = Clock()
        self.done: dict[str, int] = {}
        self.text = StringIO()
        self.progress = PlainProgress(Console(file=self.text, width=200), clock=self.clock)
        for step in steps:
            self.progress.step_started(step, "op", 100, 0)
        self.read()

    def tick(self, seconds: int, **done: int | tuple[int, int]) -> list[str]:
        """Report the finished rows (and the total) of each step twice a second, until it has finished this many; return new lines."""
        before = {step: self.done.get(step, 0) for step in done}
        for tick in range(1, 2 * seconds + 1):
            self.clock.now += 0.5
            for step, rows in done.items():
                count, total = rows if isinstance(rows, tuple) else (rows, 100)
                self.done[step] = before[step] + (count - before[step]) * (tick // 2) // seconds
                self.progress.step_advanced(step, self.done[step], total, "")
        return self.read()

    def read(self) -> list[str]:
        lines = self.text.getvalue().splitlines()
        self.text.seek(0)
        self.text.truncate()
        return lines


def test_steps_that_run_at_once_have_a_line_each() -> None:
    several = Several("a", "b")
    assert several.tick(10, a=20, b=40) == ["a: 20/100 (2/s, about 40 s left)", "b: 40/100 (4/s, about 15 s left)"]
    assert several.tick(10, a=40, b=80) == ["a: 40/100 (2/s, about 30 s left)", "b: 80/100 (4/s, about 5 s left)"]


def test_a_step_that_waits_does_not_make_the_others_wait() -> None:
    several = Several("stuck", "moving")
    lines = [line for round in range(20) for line in several.tick(10, stuck=0, moving=round + 1)]
    assert sum(line.startswith("moving:") for line in lines) == 20
    assert sum(line.startswith("stuck:") for line in lines) == 5, "after 10, 20, 40, 80 and 160 seconds"


def test_a_step_that_starts_later_has_its_own_pace() -> None:
    several = Several("a")
    several.tick(20, a=20)
    several.progress.step_started("b", "op", 100, 40)
    several.done["b"] = 40
    assert several.read() == ["b: op on 100 rows, 40 of them already done"]
    assert "b: 60/100 (2/s, about 20 s left)" in several.tick(10, a=30, b=60)


def test_a_finished_step_has_no_more_lines() -> None:
    several = Several("a", "b")
    several.progress.step_finished(finished("a", rows_in=100, rows_out=99))
    assert several.read() == ["a: ran: 100 rows in, 99 out (1.5 s)"]
    assert several.tick(10, a=100, b=50) == ["b: 50/100 (5/s, about 10 s left)"]


def test_while_a_total_grows_the_remaining_time_is_unknown() -> None:
    several = Several("a")
    assert several.tick(10, a=(50, 100)) == ["a: 50/100 (5/s, about 10 s left)"]
    assert several.tick(10, a=(100, 164)) == ["a: 100/164 so far (5/s)"]
    assert several.tick(10, a=(150, 400)) == ["a: 150/400 so far (5/s)"]
    assert several.tick(10, a=(200, 400)) == ["a: 200/400 (5/s, about 40 s left)"]


def test_a_total_that_grows_is_a_change() -> None:
    several = Several("a")
    lines = [line for round in range(1, 6) for line in several.tick(10, a=(0, 100 * round))]
    assert lines == ["a: 0/100", *[f"a: 0/{100 * round} so far" for round in range(2, 6)]]


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        ("hit", "hit: 5 rows in, 4 out, 2 calls (1.5 s)"),
        ("failed", "failed: 5 rows in, 4 out, 2 calls (1.5 s)"),
        ("stopped", "stopped: 5 rows in, its finished partitions are kept, 2 calls (1.5 s)"),
    ],
)
def test_a_finished_step_in_one_line(outcome: str, text: str) -> None:
    assert describe(finished("a", outcome, rows_in=5, rows_out=4, calls=2)) == text


def test_all_numbers_of_rows_and_calls_have_separators() -> None:
    counts = {"rows_in": 3000, "rows_out": 2000, "rejected": 1000, "calls": 4000, "calls_reused": 5000}
    assert describe(finished("a", **counts)) == (
        "ran: 3,000 rows in, 2,000 out, 1,000 rejected, 4,000 calls + 5,000 from the journal (1.5 s)"
    )


class Terminal:
    """A run's progress on a terminal of this height."""

    def __init__(self, height: int = 25) -> None:
        self._text = StringIO()
        size = {"width": 100, "height": height}
        self.progress = LiveProgress(Console(file=self._text, force_terminal=True, color_system=None, _environ={}, **size))

    @property
    def above(self) -> list[str]:
        """The lines that stay above the bars."""
        return re.findall(r"[✓✗■] .*", self._text.getvalue())

    @property
    def bars(self) -> list[tuple[str, str]]:
        """Step and count of each bar in the last frame; a frame begins where the one before it was erased."""
        return re.findall(r"(\w+) [━╸╺ ]+(\d+/\d+)", self._text.getvalue().rpartition("\x1b[2K")[2])


def test_each_running_step_has_a_bar_and_finished_ones_are_lines_above() -> None:
    terminal = Terminal()
    with terminal.progress as progress:
        progress.step_finished(finished("cached", "hit", rows_in=5, rows_out=5))
        for step in ("a", "b", "c", "d"):
            progress.step_started(step, "op", 10, 0)
        progress.step_advanced("d", 5, 10, "waiting for the server")
        progress.step_advanced("a", 5, 10, "")
        progress.step_finished(finished("b", "failed", rows_in=10))
        progress.step_finished(finished("c", "stopped", rows_in=10))
        progress.step_advanced("d", 5, 64, "")
    assert terminal.above == [
        "✓ cached hit: 5 rows in, 5 out (1.5 s)",
        "✗ b failed: 10 rows in, 0 out (1.5 s)",
        "■ c stopped: 10 rows in, its finished partitions are kept (1.5 s)",
    ]
    assert terminal.bars == [("a", "5/10"), ("d", "5/64")]


def test_twenty_steps_one_after_the_other_take_one_bar() -> None:
    terminal = Terminal(height=5)
    with terminal.progress as progress:
        for number in range(20):
            progress.step_started(f"s{number}", "op", 10, 0)
            if number < 19:
                progress.step_finished(finished(f"s{number}", rows_in=10, rows_out=10))
    assert len(terminal.above) == 19
    assert terminal.bars == [("s19", "0/10")]


def test_twenty_steps_at_once_do_not_outgrow_the_terminal() -> None:
    terminal = Terminal(height=8)
    with terminal.progress as progress:
        for number in range(20):
            progress.step_started(f"s{number}", "op", 10, 0)
        progress.message("a line for the user")
        during = terminal.bars
        for number in range(20):
            progress.step_finished(finished(f"s{number}", rows_in=10, rows_out=10))
    assert len(during) < 8
    assert (len(terminal.above), terminal.bars) == (20, [])


def test_a_report_that_comes_after_the_end_of_a_step_is_ignored() -> None:
    terminal, several = Terminal(), Several("a")
    with terminal.progress as progress:
        progress.step_started("a", "op", 10, 0)
        progress.step_finished(finished("a"))
        progress.step_advanced("a", 10, 10, "")
    assert terminal.bars == []
    several.progress.step_finished(finished("a"))
    several.read()
    assert several.tick(20, a=100) == []
