"""What runs cost, by pipeline, step, model and day; and what a kept row cost, with the attempts before it."""

from __future__ import annotations

import datetime as dt

import pytest

from engine.page.facts.runs.costs import Spent, costs
from registry import Registry, StepRun
from tests.engine.page.conftest import Visit
from tests.engine.page.crafted import BEGAN, commit, make_hostile, ran, reading


def test_costs_add_up_over_every_grouping(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        found = costs(reader)
    assert found.total == Spent((), 42, 3, 4200, 2100, 7.25)
    for groups in (found.pipelines, found.steps, found.models, found.days):
        assert sum(each.cost_usd for each in groups) == 7.25
        assert sum(each.calls for each in groups) == 42
    assert [each.group for each in found.steps] == [("demo", "answers"), ("demo", "judged")]
    assert [each.group for each in found.models] == [("gpt-5-mini",)]
    assert [each.group for each in found.days] == [("2026-01-02",)]
    assert found.unassigned == 0


def test_a_kept_row_costs_what_its_whole_way_cost(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        kept = {str(each.version): each for each in costs(reader).kept}
    assert kept["demo/answers@1"].each == pytest.approx(5.25 / 21)
    assert kept["demo/judged@1"].each == pytest.approx(7.25 / 21)
    # The model is made of them, and rows made with it are, too.
    assert kept["demo/after@1"].each == pytest.approx(7.25 / 4)
    assert "demo/seeds@1" not in kept


def test_a_row_also_costs_what_failed_before_it_was_made(registry: Registry) -> None:
    ways = (("failed", "failed", 1.0), ("interrupted", "stopped", 0.5), ("succeeded", "resumed", 0.25))
    for place, (state, outcome, price) in enumerate(ways):
        run = registry.catalog.begin_run("demo", {"params": {}}, BEGAN)
        record = ran("said", "ask", 10 * place, 10 * place + 1, calls=1, cost_usd=price).model_copy(update={"outcome": outcome})
        if outcome == "resumed":
            ref = commit(registry, run, "said", [{"text": "a"}, {"text": "b"}], record=record)
            registry.catalog.end_run(run, state, refs={ref.name: ref.version})
        else:
            registry.catalog.commit([], run, record)
            registry.catalog.end_run(run, state, "no")
    with reading(registry) as reader:
        found = costs(reader)
    [kept] = found.kept
    assert (str(kept.version), kept.cost_usd, kept.each) == ("demo/said@1", 1.75, 0.875)
    assert found.unassigned == 1.75


def test_costs_are_narrowed_to_a_pipeline_and_to_days(registry: Registry, trained: str) -> None:
    run = registry.catalog.begin_run("other", {"params": {}}, BEGAN + dt.timedelta(days=100))
    registry.catalog.commit([], run, StepRun(step="ask", op="ask", outcome="ran", calls=1, cost_usd=3.0))
    registry.catalog.end_run(run, "succeeded")
    with reading(registry) as reader:
        assert costs(reader).total.cost_usd == 10.25
        assert costs(reader, "other").total.cost_usd == 3.0
        assert costs(reader, "", (BEGAN + dt.timedelta(days=50)).date()).total.cost_usd == 3.0
        assert costs(reader, "other' or ''='").total.cost_usd == 0


def test_an_empty_registry_has_no_costs(registry: Registry, visit: Visit) -> None:
    registry.catalog.begin_run("demo", {"params": {}})
    page = visit(registry.root).get("/costs")
    assert page.status_code == 200
    assert "No model was called." in page.text


def test_the_page_answers_whatever_is_asked_of_it(registry: Registry, trained: str, visit: Visit) -> None:
    make_hostile(registry)
    client = visit(registry.root)
    assert "$7.25" in client.get("/costs").text
    assert client.get("/costs", params={"pipeline": "<b>", "days": "-1"}).status_code == 200
    assert "<script>alert" not in client.get("/costs", params={"pipeline": "<script>alert(1)</script>"}).text
