"""`engine runs RUN_ID`: the steps of a run on a time axis, as text and as JSON."""

from __future__ import annotations

import datetime as dt
import json
from io import BytesIO, TextIOWrapper
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from engine.cli.app import app
from engine.cli.timeline import print_timeline, run_timeline
from engine.errors import PipelineError
from registry import Registry, StepRun

BEGAN = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def after(seconds: float) -> dt.datetime:
    return BEGAN + dt.timedelta(seconds=seconds)


def step(name: str, outcome: Any, start: float, stop: float, waited_for: str = "", **more: Any) -> StepRun:
    """A step by the seconds since the run began."""
    times = {"started_at": after(start), "ended_at": after(stop), "seconds": abs(stop - start)}
    return StepRun(step=name, op="test", outcome=outcome, waited_for=waited_for, **times, **more)


# In the order in which they ended.
STEPS = (
    step("cached", "hit", 0, 0.01, rows_in=10, rows_out=9),
    step("solve", "ran", 0, 50, "problems", rows_in=1000, rows_out=990, calls=1200),
    step("train", "failed", 50, 100, "resources", rows_in=990),
    step("judge", "stopped", 25, 100, "solve", rows_in=700, calls=40),
)


def recorded(registry: Registry, *steps: StepRun, ended: bool = True) -> str:
    run = registry.catalog.begin_run("demo", {"params": {"limit": 3}}, BEGAN)
    for each in steps:
        registry.catalog.commit([], run, each)
    if ended:
        registry.catalog.end_run(run, "failed", "step 'train' failed: out of memory")
    return run


def drawn(registry: Registry, run: str, width: int = 100, encoding: str = "utf-8") -> list[str]:
    """The lines of a run's timeline on a terminal of this width."""
    written = BytesIO()
    file = TextIOWrapper(written, encoding=encoding)
    with registry.session() as session:
        print_timeline(run_timeline(session, run), Console(file=file, width=width, highlight=False))
    file.flush()
    return [line.rstrip() for line in written.getvalue().decode(encoding).splitlines()]


def engine(registry: Registry, *arguments: str) -> Result:
    """A command in this process."""
    return CliRunner().invoke(app, ["--registry", str(registry.root), *arguments], catch_exceptions=False)


def test_bars_are_on_one_axis_in_order_of_their_start(registry: Registry) -> None:
    title, started, _, head, rule, *table, _, error = drawn(registry, recorded(registry, *STEPS))
    assert title.startswith("Run 20260102-030405-")
    assert " of pipeline demo: failed after " in title
    assert started == "started 2026-01-02 03:04:05 UTC"
    assert " ".join(head.split()) == "step start duration 0 s 1 min 40 s outcome rows out calls waited for"
    assert set(rule) == {"─"}
    assert [line.split("█")[0].split() + line.split("█")[-1].split() for line in table] == [
        ["cached", "0.0", "s", "0.0", "s", "hit", "9", "0"],
        ["solve", "0.0", "s", "50.0", "s", "ran", "990", "1,200", "problems"],
        ["judge", "25.0", "s", "1", "min", "15", "s", "stopped", "0", "40", "solve"],
        ["train", "50.0", "s", "50.0", "s", "failed", "0", "0", "resources"],
    ]
    assert error == "step 'train' failed: out of memory"
    # The axis is as wide as its header.
    left, width = head.index("0 s"), head.index("40 s") + len("40 s") - head.index("0 s")
    bars = [(line.index("█") - left, line.count("█")) for line in table]
    assert bars == [
        (0, 1),
        (0, round(width / 2)),
        (width // 4, width - width // 4),
        (width // 2, width - width // 2),
    ]


@pytest.mark.parametrize("width", [60, 80, 81, 120, 200])
def test_the_table_fits_the_terminal(registry: Registry, width: int) -> None:
    long = step("a_step_with_a_rather_long_name_that_nobody_should_use", "ran", 0, 5000, "another run")
    lines = drawn(registry, recorded(registry, *STEPS, long), width)
    table = [line for line in lines[3:] if line]
    assert max(map(len, table[:-1])) <= width
    assert sum("█" in line for line in table) == 5
    assert any("1 h 23 min" in line for line in table)
    assert any("rows out" in line for line in table) == (width >= 80)


def test_a_stream_that_is_not_utf_8_gets_ascii(registry: Registry) -> None:
    long = step("a_step_with_a_rather_long_name_that_nobody_should_use", "ran", 0, 90)
    text = "\n".join(drawn(registry, recorded(registry, *STEPS, long), encoding="ascii"))
    assert "####" in text
    assert "a_step_with" in text


def test_steps_of_an_older_engine_have_no_bars(registry: Registry) -> None:
    run = recorded(
        registry, StepRun(step="a", op="test", outcome="ran", seconds=3), StepRun(step="b", op="test", outcome="ran")
    )
    lines = drawn(registry, run)
    assert " ".join(lines[3].split()) == "step start duration outcome rows out calls waited for"
    assert [line.split() for line in lines[5:7]] == [["a", "3.0", "s", "ran", "0", "0"], ["b", "0.0", "s", "ran", "0", "0"]]
    assert "An older version of the engine recorded this run, without the times of its steps." in lines


def test_a_clock_that_went_back_draws_a_bar_all_the_same(registry: Registry) -> None:
    lines = drawn(registry, recorded(registry, step("a", "ran", -5, -7), step("b", "ran", 1, 2)))
    assert [line.split("█")[0].split() for line in lines[5:7]] == [["a", "0.0", "s", "0.0", "s"], ["b", "1.0", "s", "1.0", "s"]]


def test_a_run_under_way_shows_the_steps_that_ended(registry: Registry) -> None:
    run = recorded(registry, STEPS[1], ended=False)
    lines = drawn(registry, run)
    assert lines[0] == f"Run {run} of pipeline demo: running"
    assert lines[-1] == "The run is under way. A step appears here when it has ended."
    registry.catalog.end_run(run, "interrupted", "stopped by the user")


def test_a_run_without_steps_says_so(registry: Registry) -> None:
    lines = drawn(registry, recorded(registry))
    assert "No step of this run was recorded." in lines


def test_json_has_the_run_and_its_steps(registry: Registry) -> None:
    run = recorded(registry, *STEPS)
    document = json.loads(engine(registry, "runs", run, "--json").stdout)
    [listed] = json.loads(engine(registry, "runs", "--json").stdout)
    assert {name: value for name, value in document.items() if name != "steps"} == listed
    assert [each["step"] for each in document["steps"]] == ["cached", "solve", "judge", "train"]
    judge = document["steps"][2]
    assert (judge["outcome"], judge["rows_in"], judge["calls"], judge["waited_for"]) == ("stopped", 700, 40, "solve")
    assert (judge["started_at"], judge["ended_at"]) == ("2026-01-02T03:04:30", "2026-01-02T03:05:45")


def test_without_an_id_the_runs_are_listed(registry: Registry) -> None:
    run = recorded(registry, *STEPS)
    assert run in engine(registry, "runs").stdout
    assert run in engine(registry, "runs", run).stdout
    assert "judge" not in engine(registry, "runs").stdout


def test_an_unknown_run_is_an_error_with_advice(registry: Registry) -> None:
    registry.catalog.rebuild()
    with pytest.raises(PipelineError, match="there is no run 'latest'\n    run a pipeline first"):
        engine(registry, "runs", "latest")
    ids = [recorded(registry) for _ in range(5)]
    with pytest.raises(PipelineError, match=r"there is no run 'latest'\n    the newest runs: (20260102-030405-\w{6}(, |$)){3}"):
        engine(registry, "runs", "latest")
    mistyped = f"{ids[0]}0"
    with pytest.raises(PipelineError, match=f"there is no run '{mistyped}'\n    did you mean '{ids[0]}'"):
        engine(registry, "runs", mistyped)
