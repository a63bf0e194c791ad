"""Progress where nobody watches a terminal: what it waits for, how fast, how long yet, and no line twice."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from engine.cli.progress import PlainProgress


class Watched:
    """A step of 1,000 rows that is shown to a log, and a clock that the test turns."""

    def __init__(self, done: int = 0) -> None:
        self.now = 100.0
        self.text = StringIO()
        self.progress = PlainProgress(Console(file=self.text, width=200), clock=lambda: self.now)
        self.progress.step_started("cot", "regenerate_cot", 1000, done)

    def tick(self, seconds: int, done: int, note: str = "") -> list[str]:
        """Report the same twice a second for some time; gives the new lines."""
        before = len(self.text.getvalue())
        for _ in range(2 * seconds):
            self.now += 0.5
            self.progress.step_advanced("cot", done, 1000, note)
        return self.text.getvalue()[before:].splitlines()


def test_a_line_has_rate_and_remaining_time_of_what_is_done_now() -> None:
    watched = Watched(done=400)
    assert watched.tick(10, 500) == ["cot: 500/1000 (10/s, about 50 s left)"]
    assert watched.tick(10, 600, "64 requests in flight") == ["cot: 600/1000 (10/s, about 40 s left) 64 requests in flight"]
    assert watched.tick(10, 1000) == ["cot: 1000/1000"]


def test_nothing_done_yet_says_what_it_waits_for_and_no_rate() -> None:
    assert Watched().tick(10, 0, "the server answers 503") == ["cot: 0/1000 the server answers 503"]


def test_what_does_not_change_is_said_ever_more_rarely() -> None:
    watched = Watched()
    lines = watched.tick(1000, 0, "waiting")
    assert lines[:3] == [
        "cot: 0/1000 waiting",
        "cot: 0/1000, unchanged for 10 s waiting",
        "cot: 0/1000, unchanged for 30 s waiting",
    ]
    assert len(lines) == 7
    assert len(set(lines)) == 7
    watched.tick(10, 5, "waiting")
    assert len(watched.tick(40, 6)) >= 2, "it is as lively as before once something changed"
