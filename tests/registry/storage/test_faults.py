"""A process that is killed with -9, at any point, leaves nothing half done: the next one continues."""

from __future__ import annotations

import errno
import os
import random
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from registry import Hit, Registry, StepRun
from registry.storage import fault_points
from registry.storage.files import LocalFiles
from tests.registry.catalog.test_catalog import VIEWS, draft
from tests.registry.children import exit_code

Facts = dict[str, list[tuple[object, ...]]]
MOMENTS, SOAK_MOMENTS = 2, 60


LOST = {"run_id", "created_at", "updated_at", "started_at", "ended_at"}
"""Columns that depend on the run and the time."""


class Undisturbed(NamedTuple):
    """The fault points that the story passes, and its result."""

    points: list[str]
    facts: Facts


def story(root: Path) -> None:
    """A run with a source, a step with two outputs and two hits, pins, and a removed version; then repairs."""
    registry = Registry(root)
    catalog = registry.catalog
    run = catalog.begin_run("p", {"file": "p.yaml"})
    [seed] = catalog.commit([draft(registry, "p/seed", ["x", "y", "z"], "k1")], run, None)
    split = StepRun(step="split", op="test", outcome="ran", rows_in=3, rows_out=4)
    parts = [draft(registry, f"p/{part}", ["Z", "X"], "k2", [seed.ref], "20") for part in ("left", "right")]
    made = catalog.commit(parts, run, split)
    catalog.record_hits(
        run, [Hit(StepRun(step=name, op="test", outcome="hit"), tuple(made)) for name in ("again", "once more")]
    )
    catalog.pin("p/seed", 1)
    catalog.pin("p/left", 1)
    catalog.unpin("p/left", 1)
    [old] = catalog.commit([draft(registry, "p/old", ["o"], "k3")], run, None)
    catalog.forget([old.version_id])
    catalog.end_run(run, "succeeded", refs={manifest.name: manifest.version for manifest in (seed, *made)})
    catalog.rebuild()
    with catalog.file.open("r+b") as file:
        file.write(b"\0" * 9000)
    catalog.snapshot().close()


def killed_story(root: Path, fault: str) -> None:
    os.environ["ENGINE_FAULT"] = fault
    story(root)


def facts(root: Path) -> Facts:
    """All public views, but of runs only the last one, and without what differs from run to run."""
    found: Facts = {}
    with Registry(root).session() as session:
        [(last,)] = session.ask("select run_id from runs order by started_at desc limit 1").rows
        for view in VIEWS:
            only = f" where run_id = '{last}'" if view in ("runs", "step_runs") else ""
            answer = session.ask(f"select * from {view}{only}")
            kept = [place for place, column in enumerate(answer.columns) if column not in LOST]
            found[view] = sorted((tuple(row[place] for place in kept) for row in answer.rows), key=repr)
    return found


def states(root: Path) -> list[str]:
    with Registry(root).session() as session:
        return [str(state) for (state,) in session.ask("select state from runs order by state").rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The story without a kill."""
    root, passed = tmp_path_factory.mktemp("undisturbed"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fault_points, "point", passed.append)
        story(root)
    return Undisturbed(passed, facts(root))


def test_the_story_passes_every_point(undisturbed: Undisturbed) -> None:
    assert set(undisturbed.points) == set(fault_points.POINTS)


def test_kills_at_every_named_point_one_after_the_other(tmp_path: Path, undisturbed: Undisturbed) -> None:
    for point in fault_points.POINTS:
        assert exit_code(killed_story, tmp_path, point) == -signal.SIGKILL, f"{point} was not reached"
        assert Registry(tmp_path).catalog.differences() == [], f"after a kill at {point}, tables and files differ"
    story(tmp_path)
    assert facts(tmp_path) == undisturbed.facts
    assert "running" not in states(tmp_path)


def test_a_kill_between_the_files_of_a_commit_leaves_all_outputs_of_the_step_or_none(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    points = undisturbed.points
    second, third = [number for number, point in enumerate(points, 1) if point == "manifest.written"][1:3]
    line = points.index("journal.appended", third) + 1
    for moment, visible in ((second, []), (third, []), (line, ["p/left", "p/right"])):
        root = tmp_path / str(moment)
        assert exit_code(killed_story, root, f"any:{moment}") == -signal.SIGKILL
        with Registry(root).session() as session:
            assert [name for (name,) in session.ask("select name from versions order by name").rows] == [*visible, "p/seed"]
            assert [step for (step,) in session.ask("select step from step_runs").rows] == (["split"] if visible else [])
        assert len([*(root / "manifests").iterdir()]) == len(visible) + 1


def test_outputs_of_a_step_that_was_killed_stay_hidden_in_a_read_only_registry_and_after_a_rebuild(
    tmp_path: Path, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = [number for number, point in enumerate(undisturbed.points, 1) if point == "manifest.written"][1]
    assert exit_code(killed_story, tmp_path, f"any:{second}") == -signal.SIGKILL

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as read_only:
        read_only.setattr(LocalFiles, "remove", refuse)
        assert Registry(tmp_path).catalog.look_up("select name from versions") == [("p/seed",)]
        assert Registry(tmp_path).catalog.differences() == []
    assert len([*(tmp_path / "manifests").iterdir()]) == 2
    assert Registry(tmp_path).catalog.rebuild() == 1
    assert len([*(tmp_path / "manifests").iterdir()]) == 1


@pytest.mark.parametrize("moments", [MOMENTS, pytest.param(SOAK_MOMENTS, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_a_kill_at_any_moment(tmp_path: Path, moments: int, undisturbed: Undisturbed) -> None:
    passed = undisturbed.points
    for moment in random.Random(moments).sample(range(1, len(passed) + 1), min(moments, len(passed))):
        root, where = tmp_path / str(moment), f"after a kill at the point number {moment}, {passed[moment - 1]}"
        assert exit_code(killed_story, root, f"any:{moment}") == -signal.SIGKILL
        Registry(root).catalog.mark_dead_runs()
        assert Registry(root).catalog.differences() == [], where
        story(root)
        assert facts(root) == undisturbed.facts, where
        assert states(root) in (["succeeded"], ["interrupted", "succeeded"], ["succeeded", "succeeded"]), where
