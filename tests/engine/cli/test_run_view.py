"""The summary of a run that did not succeed: which steps failed, which were stopped, and what is kept."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from engine.cli.metrics_view import metrics_in_words
from engine.cli.run_view import print_run, run_document
from engine.running.result import RunResult, StepResult
from registry import Metric, StepRun


def result(state: str, error: str, **outcomes: Any) -> RunResult:
    """A run of steps with these outcomes."""
    steps = [StepResult(StepRun(step=name, op="test", outcome=outcome, rows_in=5)) for name, outcome in outcomes.items()]
    return RunResult("r1", "demo", state, (), tuple(steps), 3.2, error)


def printed(run: RunResult) -> str:
    text = StringIO()
    print_run(run, [], ".engine", Console(file=text, width=120, highlight=False))
    return text.getvalue()


def table(text: str) -> list[list[str]]:
    """The words of the table's rows."""
    return [line.split() for line in text.partition("─\n")[2].partition("\n\n")[0].splitlines()]


def test_a_stopped_step_is_not_a_failure() -> None:
    text = printed(result("failed", "step 'b' failed: boom", a="ran", b="failed", c="stopped"))
    assert table(text) == [
        ["a", "test", "ran", "5", "0"],
        ["b", "test", "FAILED", "5", "0"],
        ["c", "test", "stopped", "5", "0", "finished", "partitions", "are", "kept"],
    ]
    assert "steps failed" not in text
    assert "\n\nstep 'b' failed: boom\nFinished work is kept. To continue:\n" in text


def test_several_failures_are_counted_and_all_explained() -> None:
    text = printed(result("failed", "step 'a' failed: boom\nstep 'b' failed: bang", a="failed", b="failed", c="stopped"))
    assert [row[2] for row in table(text)] == ["FAILED", "FAILED", "stopped"]
    assert "\n\n2 steps failed:\nstep 'a' failed: boom\nstep 'b' failed: bang\nFinished work is kept." in text


def test_an_interrupted_run_shows_its_stopped_steps() -> None:
    text = printed(result("interrupted", "stopped by the user", a="hit", b="stopped", c="stopped"))
    assert "Pipeline demo was interrupted in 3.2 s (run r1)" in text
    assert [row[2] for row in table(text)] == ["unchanged", "stopped", "stopped"]


def test_all_numbers_of_the_summary_have_separators() -> None:
    record = StepRun(step="a", op="test", outcome="ran", rows_in=5000, rows_out=2000, rejected=1000, filtered=3000)
    metrics = (Metric(metric="kept", value=2000.0, slice="answers"),)
    step = StepResult(record, reasons=(("bad", 1000),), partial=4000, metrics=metrics)
    text = printed(RunResult("r1", "demo", "failed", (), (step,), 3.2, "boom"))
    assert table(text)[0][3:5] == ["5,000", "2,000"]
    assert "3,000 filtered; 1,000 rejected, 4,000 partly rejected (1,000 x bad); kept: 2,000 answers" in " ".join(text.split())


@pytest.mark.parametrize("field", ["started_at", "ended_at", "waited_for"])
def test_the_document_has_the_times_of_steps(field: str) -> None:
    [step] = run_document(result("failed", "boom", a="failed"))["steps"]
    assert field in step


def test_counters_of_0_are_hidden_and_shares_of_0_are_shown() -> None:
    counters = [Metric(metric="rows", slice=name, value=value) for name, value in (("kept", 4), ("dropped", 0))]
    shares = [Metric(metric="accuracy", slice=name, value=value) for name, value in (("easy", 1.0), ("hard", 0.0))]
    assert metrics_in_words([*counters, *shares]) == ["rows: 4 kept", "accuracy: 1 easy, 0 hard"]
    assert metrics_in_words(counters[1:]) == ["rows: 0 dropped"], "there is nothing else to show"
