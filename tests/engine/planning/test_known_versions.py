"""The versions of all steps are looked up at once. Later commits and removals by other processes are still noticed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.pipeline.check import check
from engine.pipeline.graph import Pipeline
from engine.planning.plan import find_outputs, known_versions, make_plan
from engine.planning.sources import KnownVersions
from registry import Manifest, Registry
from tests.engine.run_pipelines import run_text, words

pytestmark = pytest.mark.usefixtures("in_process")

TEXT = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {cut: {op: by_length, in: words}, loud: {op: shout, in: cut.long}}}"


@pytest.fixture
def pipeline(registry: Registry) -> Pipeline:
    """A finished pipeline."""
    words("ab", "cde")
    run_text(TEXT, registry)
    return check(Path("p.yaml"))


@pytest.fixture
def look_ups(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries that look up versions."""
    found: list[str] = []
    look_up = registry.catalog.look_up

    def watched(query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        found.append(query)
        return look_up(query, values)

    monkeypatch.setattr(registry.catalog, "look_up", watched)
    return found


def outputs(pipeline: Pipeline, registry: Registry, known: KnownVersions) -> list[tuple[Manifest, ...]]:
    """The outputs of all steps."""
    plan = make_plan(pipeline, registry, select=set(), force=set())
    return [find_outputs(pipeline, pipeline.steps[step.name], step.key, registry, known) for step in plan.steps]


def test_a_plan_of_finished_steps_looks_them_up_once(pipeline: Pipeline, registry: Registry, look_ups: list[str]) -> None:
    plan = make_plan(pipeline, registry, select=set(), force=set())
    assert [step.status for step in plan.steps] == ["HIT", "HIT"]
    assert len(look_ups) == 1, "the dataset and all steps"


def test_versions_of_other_steps_and_names_are_not_used(pipeline: Pipeline, registry: Registry) -> None:
    known = known_versions(pipeline, registry)
    [cut, loud] = outputs(pipeline, registry, known)
    assert [each.name for each in (*cut, *loud)] == ["demo/cut.long", "demo/cut.short", "demo/loud"]
    exchanged = dict(zip(known, reversed(list(known.values())), strict=True))
    assert outputs(pipeline, registry, exchanged) == [cut, loud]


def test_what_was_committed_later_is_found(pipeline: Pipeline, registry: Registry) -> None:
    assert outputs(pipeline, registry, {}) == outputs(pipeline, registry, known_versions(pipeline, registry))


def test_an_old_version_is_found(pipeline: Pipeline, registry: Registry) -> None:
    expected = outputs(pipeline, registry, {})
    for text in ("vvv", "www", "xxx", "yyy", "zzz"):
        words(text)
        run_text(TEXT, registry)
    words("ab", "cde")
    known = known_versions(pipeline, registry)
    assert not known.keys() & {each.step_key for versions in expected for each in versions}
    assert outputs(pipeline, registry, known) == expected


def test_a_version_that_was_removed_or_is_incomplete_is_not_used(pipeline: Pipeline, registry: Registry) -> None:
    known = known_versions(pipeline, registry)
    [_, [loud]] = outputs(pipeline, registry, known)
    registry.catalog.forget([loud.version_id])
    pipeline_plan = make_plan(pipeline, registry, select=set(), force=set())
    assert [step.status for step in pipeline_plan.steps] == ["HIT", "RESUME"]
    assert find_outputs(pipeline, pipeline.steps["loud"], loud.step_key, registry, known) == ()
    [[long, _], _] = outputs(pipeline, registry, known)
    (registry.root / "objects" / long.data[0].sha256[:2] / long.data[0].sha256).unlink()
    assert find_outputs(pipeline, pipeline.steps["cut"], long.step_key, registry, known) == ()
