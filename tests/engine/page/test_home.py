"""The first page."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from engine.jobs.live import LiveStep, write_live
from registry import Registry
from tests.engine.page.conftest import Visit
from tests.engine.page.stored import store


def test_the_first_page_lists_runs_pipelines_and_names(shipped: Path, visit: Visit) -> None:
    text = visit(shipped).get("/").text
    assert text.count('<th scope="row"><a href="/runs/') == 4
    assert text.count('<th scope="row"><a href="/?pipeline=') == 3
    for name in ("distil/rows", "judge-and-filter/best.kept", "preferences/pairs"):
        assert f"<bdi>{name}</bdi>" in text


def test_the_menu_marks_the_page_that_is_shown(shipped: Path, visit: Visit) -> None:
    client = visit(shipped)
    for path, name in (("/", "Home"), ("/sql", "SQL"), ("/costs", "Costs")):
        assert f'<a href="{path}" aria-current="page">{name}</a>' in client.get(path).text


def test_runs_of_one_pipeline_and_names_that_contain_a_text(shipped: Path, visit: Visit) -> None:
    client = visit(shipped)
    one = client.get("/", params={"pipeline": "judge-and-filter"}).text
    assert one.count('<th scope="row"><a href="/runs/') == 2
    found = client.get("/", params={"find": "PAIRS"}).text
    assert "preferences/pairs" in found
    assert "<bdi>distil/rows</bdi>" not in found
    assert "No name matches" in client.get("/", params={"find": "100%_'\"<b>"}).text


def test_an_empty_registry_says_how_to_begin(registry: Registry, visit: Visit) -> None:
    run = registry.catalog.begin_run("nothing", {})
    registry.catalog.end_run(run, "failed", "<b>it</b> failed\x1b[31m")
    text = visit(registry.root).get("/").text
    assert "The registry is empty" in text
    assert r"&lt;b&gt;it&lt;/b&gt; failed\x1b[31m" in text


def test_an_active_run_is_followed_with_its_steps(registry: Registry, visit: Visit) -> None:
    store(registry, "a", [{"n": 1}])
    run = registry.catalog.begin_run("busy", {})
    now = dt.datetime.now(dt.UTC)
    steps = (
        LiveStep(
            step="ask",
            op="generate",
            state="running",
            rows=40,
            done=10,
            total=40,
            rejected=2,
            note="waits for the limit",
            started_at=now,
        ),
        LiveStep(step="keep", op="filter", state="waiting", waited_for="ask"),
    )
    write_live(registry.catalog.runs.folder, run, steps)
    client = visit(registry.root)
    part = client.get("/live/runs").text
    assert part.lstrip().startswith('<div data-live="/live/runs">')
    assert '<div data-live="/live/runs">' in client.get("/").text
    for said in (
        'class="state running"',
        'max="40" value="10"',
        "10 of 40, 2 rejected",
        "waits for the limit",
        "1 pending step",
    ):
        assert said in part
    registry.catalog.end_run(run, "succeeded")
    assert 'class="state running"' not in client.get("/live/runs").text


def test_a_run_whose_process_died_is_not_shown_as_running(registry: Registry, visit: Visit) -> None:
    run = registry.catalog.begin_run("killed", {})
    registry.catalog.runs.release(run)  # as the system does when a process dies
    text = visit(registry.root).get("/").text
    assert 'class="state running"' not in text
    assert text.count('class="state interrupted"') == 2
    [(state,)] = registry.catalog.look_up("select state from runs")
    assert state == "running"  # the page writes nothing


def test_a_long_list_of_runs_is_cut_and_can_be_shown_whole(registry: Registry, visit: Visit) -> None:
    for number in range(20):
        registry.catalog.end_run(registry.catalog.begin_run(f"p{number}", {}), "succeeded")
    client = visit(registry.root)
    assert client.get("/").text.count('<th scope="row"><a href="/runs/') == 15
    assert client.get("/", params={"all": "runs"}).text.count('<th scope="row"><a href="/runs/') == 20
