"""Runs, rows, models and costs in a real browser: drawn, by keyboard, on narrow screens, and accessible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.jobs.live import LiveStep, write_live
from registry import Registry
from tests.engine.page.conftest import served
from tests.engine.page.crafted import BEGAN, ran
from tests.engine.page.walking import Visited, findings, fits, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Serve = Callable[[Path], str]


Crafted = tuple[Path, str, str]


@pytest.fixture(scope="module")
def visitor(crafted: Crafted, browser: Browser) -> Iterator[Visited]:
    """Someone who has opened the page over the crafted registry, and looks at one page after the other."""
    with served(crafted[0]) as address, visiting(browser, address) as visited:
        yield visited


def paths(crafted: Crafted) -> dict[str, str]:
    """The pages to look at."""
    _, run, bad = crafted
    return {
        "run": f"runs/{run}",
        "row": "rows/4/demo/judged@1",
        "model": "versions/demo/sft@1",
        "calibration": "versions/demo/calibrated@1",
        "costs": "costs",
        "hostile-run": f"runs/{bad}",
        "hostile-row": "rows/0/bad/%3Cu%3Estep%3C/u%3E@1",
    }


def test_pages_are_drawn_without_complaints_and_are_accessible(crafted: Crafted, visitor: Visited) -> None:
    page = visitor.page
    for name, path in paths(crafted).items():
        page.set_viewport_size({"width": 1280, "height": 900})
        visitor.open(f"/{path}")
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            assert findings(page) == [], (name, scheme)
        assert fits(page), name
        visitor.picture(f"{name}-1280")
        page.set_viewport_size({"width": 360, "height": 900})
        visitor.open(f"/{path}")
        assert fits(page), name
        visitor.picture(f"{name}-360")
    assert visitor.said == []
    page.set_viewport_size({"width": 1280, "height": 900})


def test_nodes_of_the_graph_are_links_that_the_keyboard_reaches(crafted: Crafted, visitor: Visited) -> None:
    page = visitor.open(f"/runs/{crafted[1]}")
    page.locator(".graph svg").wait_for()
    link = page.locator(".graph a", has_text="judged@1")
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/versions/demo/judged@1")
    page = visitor.open("/rows/4/demo/judged@1")
    page.locator(".graph a", has_text="row 1 of seeds").click()
    page.wait_for_url("**/rows/1/demo/seeds@1")
    assert page.get_by_role("heading", name="What it became").is_visible()
    assert visitor.said == []


def test_a_graph_is_zoomed_by_buttons_and_moved_by_dragging(crafted: Crafted, visitor: Visited) -> None:
    visitor.page.set_viewport_size({"width": 360, "height": 900})
    page = visitor.open(f"/runs/{crafted[1]}")
    drawing = page.locator(".graph .drawing")

    def size() -> float:
        return float(drawing.locator("svg").evaluate("svg => svg.getBoundingClientRect().width"))

    before = size()
    page.get_by_role("button", name="Larger").press("Enter")
    assert size() == pytest.approx(before * 1.25, abs=1)
    page.get_by_role("button", name="Smaller").click()
    assert size() == pytest.approx(before, abs=1)
    drawing.evaluate("each => each.scrollTo(0, 100)")
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + 100
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 60, steps=4)
    page.mouse.up()
    assert drawing.evaluate("each => each.scrollTop") == pytest.approx(40, abs=2)
    page.get_by_role("button", name="Whole").click()
    assert drawing.evaluate("each => each.scrollHeight <= each.clientHeight && each.scrollWidth <= each.clientWidth")
    assert visitor.said == []
    visitor.page.set_viewport_size({"width": 1280, "height": 900})


def test_a_run_is_followed_while_it_lasts(registry: Registry, serve: Serve, browser: Browser) -> None:
    graph = [{"step": "said", "op": "ask", "inputs": {"word": ["demo/words"]}, "outputs": ["demo/said"], "models": {}}]
    run_id = registry.catalog.begin_run("demo", {"params": {}, "graph": graph}, BEGAN)
    folder = registry.catalog.runs.folder
    step = LiveStep(step="said", op="ask", state="running", rows=100, done=40, total=100, started_at=BEGAN)
    write_live(folder, run_id, (step,))
    with visiting(browser, serve(registry.root)) as visitor:
        page = visitor.open(f"/runs/{run_id}")
        page.get_by_text("40 of 100").first.wait_for()
        visitor.picture("run-live")
        page.set_viewport_size({"width": 360, "height": 800})
        steps = page.locator("div.scroll[aria-label=Steps]")
        steps.evaluate("each => { each.scrollLeft = 60 }")
        write_live(folder, run_id, (step.model_copy(update={"done": 80}),))
        steps.get_by_text("80 of 100").wait_for()
        assert steps.evaluate("each => each.scrollLeft") == 60
        # A part with a selection is not updated; everything else is.
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#steps'))")
        write_live(folder, run_id, (step.model_copy(update={"done": 90}),))
        page.locator(".graph").get_by_text("90 of 100").wait_for()
        assert steps.get_by_text("80 of 100").count() == 1
        page.evaluate("getSelection().removeAllRanges()")
        steps.get_by_text("90 of 100").wait_for()
        registry.catalog.commit([], run_id, ran("said", "ask", 0, 1, rows_in=100))
        registry.catalog.end_run(run_id, "succeeded")
        page.get_by_text("succeeded").wait_for()
        assert page.locator("[data-live]").count() == 0
        assert page.locator(".graph svg").is_visible()
        assert visitor.said == []


def test_the_two_curves_of_a_calibration_are_named(crafted: Crafted, visitor: Visited) -> None:
    page = visitor.open("/versions/demo/calibrated@1")
    chart = page.locator("figure", has_text="ecr by alpha").first
    chart.locator("svg text", has_text="first k").wait_for()
    chart.get_by_text("As a table").click()
    assert chart.get_by_role("cell", name="first k").first.is_visible()
