"""The record of a step's run is the same in the commit, the journal, the tables and the view."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from registry import Registry, StepRun

START = dt.datetime(2026, 1, 2, 3, 4, 5, 600_000, dt.UTC)
END = START + dt.timedelta(seconds=90)
NAIVE = (START.replace(tzinfo=None), END.replace(tzinfo=None))

JUDGE = StepRun(
    step="judge",
    op="pick",
    outcome="stopped",
    rows_in=8,
    calls=3,
    seconds=90,
    started_at=START,
    ended_at=END,
    waited_for="solve",
)


def recorded(registry: Registry, *steps: StepRun) -> str:
    """A failed run of these steps."""
    run = registry.catalog.begin_run("p", {})
    for step in steps:
        registry.catalog.commit([], run, step)
    registry.catalog.end_run(run, "failed", "boom")
    return run


def view(registry: Registry) -> list[tuple[object, ...]]:
    with registry.session() as session:
        return session.ask("select step, outcome, started_at, ended_at, waited_for from step_runs").rows


def test_a_journal_has_the_whole_record(registry: Registry) -> None:
    run = recorded(registry, JUDGE)
    assert [event.step for event in registry.catalog.runs.read(run)] == [None, JUDGE, None]


def test_times_are_kept_in_utc(registry: Registry) -> None:
    elsewhere = dt.timezone(dt.timedelta(hours=5))
    recorded(registry, JUDGE.model_copy(update={"started_at": START.astimezone(elsewhere)}))
    assert view(registry) == [("judge", "stopped", *NAIVE, "solve")]


def test_a_rebuild_gives_the_same_steps(registry: Registry) -> None:
    started = JUDGE.model_copy(update={"step": "free", "outcome": "ran", "waited_for": ""})
    recorded(registry, JUDGE, started)
    before = view(registry)
    assert before == [("judge", "stopped", *NAIVE, "solve"), ("free", "ran", *NAIVE, "")]
    registry.catalog.file.unlink()
    assert view(registry) == before
    registry.catalog.rebuild()
    assert view(registry) == before
    assert registry.catalog.differences() == []


def test_a_step_of_an_older_engine_has_nulls(registry: Registry) -> None:
    """Its record lacks the fields. That it is unknown what the step waited for differs from having waited for nothing."""
    run = recorded(registry, StepRun(step="old", op="pick", outcome="ran", seconds=2))
    [_, line, _] = registry.catalog.runs.path(run).read_text().splitlines()
    assert set(json.loads(line)["run"]["facets"]["engine"]["event"]["step"]) == {"step", "op", "outcome", "seconds"}
    assert view(registry) == [("old", "ran", None, None, None)]


def test_new_columns_are_at_the_end_of_the_view(registry: Registry) -> None:
    with registry.session() as session:
        columns = session.ask("from step_runs").columns
    assert columns[-6:] == ["waited_for", "variant", "filtered", "unused", "why", "notes"]


@pytest.mark.parametrize("field", ["started_at", "ended_at"])
def test_a_time_out_of_range_is_refused(field: str) -> None:
    latest = dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-1)))
    with pytest.raises(ValueError, match="a time out of range"):
        StepRun.model_validate({"step": "s", "op": "o", "outcome": "ran", field: latest})


def test_a_step_is_recorded_once_even_if_its_run_was_interrupted_when_it_had_been_recorded(registry: Registry) -> None:
    recorded(registry, JUDGE, JUDGE.model_copy(update={"calls": 4}), JUDGE.model_copy(update={"variant": "lr=1"}))
    with registry.session() as session:
        assert session.ask("select step, variant, calls from step_runs order by variant").rows == [
            ("judge", "", 3),
            ("judge", "lr=1", 3),
        ]
