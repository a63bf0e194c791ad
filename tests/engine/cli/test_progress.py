"""Progress without a terminal: what the step waits for, its rate, the remaining time, and no line twice."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from engine.cli.progress import PlainProgress


class Watched:
    """A step of 1,000 rows that reports to a log, with a clock that the test controls."""

    def __init__(self, done: int = 0) -> None:
        self.now = 100.0
        self.text = StringIO()
        self.progress = PlainProgress(Console(file=self.text, width=200), clock=lambda: self.now)
        self.progress.step_started("cot", "regenerate_cot", 1000, done)

    def tick(self, seconds: int, done: int, note: str = "") -> list[str]:
        """Report the same state twice a second for some time; return the new lines."""
        before = len(self.text.getvalue())
        for _ in range(2 * seconds):
            self.now += 0.5
            self.progress.step_advanced("cot", done, 1000, note)
        return self.text.getvalue()[before:].splitlines()


def test_a_line_has_the_rate_and_remaining_time_of_this_run() -> None:
    watched = Watched(done=400)
    assert watched.tick(10, 500) == ["cot: 500/1000 (10/s, about 50 s left)"]
    assert watched.tick(10, 600, "64 requests in flight") == ["cot: 600/1000 (10/s, about 40 s left); 64 requests in flight"]
    assert watched.tick(10, 1000) == ["cot: 1000/1000"]


def test_there_is_no_rate_before_the_first_row() -> None:
    assert Watched().tick(10, 0, "the server answers 503") == ["cot: 0/1000; the server answers 503"]


def test_lines_become_rarer_if_nothing_changes() -> None:
    watched = Watched()
    lines = watched.tick(1000, 0, "waiting")
    assert lines[:3] == [
        "cot: 0/1000; waiting",
        "cot: 0/1000, unchanged for 10 s; waiting",
        "cot: 0/1000, unchanged for 30 s; waiting",
    ]
    assert len(lines) == 7
    assert len(set(lines)) == 7
    watched.tick(10, 5, "waiting")
    assert len(watched.tick(40, 6)) >= 2, "lines are as frequent as before once something changes"
