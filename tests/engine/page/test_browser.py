"""Pages in a real browser: nothing on the console, nothing from elsewhere, legible at any width, usable by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry import Registry
from tests.engine.page.conftest import Serve, served
from tests.engine.page.walking import NARROW, WIDE, Visited, findings, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGES = {
    "home": "/",
    "dataset": "/versions/tutor/problems@2?size=25",
    "dataset-filtered": "/versions/tutor/problems@2?where=score+%3E%3D+4&sort=answer&desc=1&size=25",
    "dataset-condition-wrong": "/versions/tutor/problems@2?where=scor+%3E%3D+4",
    "dataset-chats": "/versions/tutor/chats@1?look=markdown&where=row+<+4",
    "dataset-chats-text": "/versions/tutor/chats@1?look=text&where=row+<+4",
    "dataset-charts": "/versions/tutor/problems@2?view=charts",
    "dataset-changes": "/versions/tutor/problems@2?view=diff",
    "dataset-schema": "/versions/tutor/chats@1?view=schema",
    "dataset-card": "/versions/judge-and-filter/judged@2?view=card",
    "dataset-hostile": "/versions/hostile/rows@1?look=markdown",
    "dataset-hostile-table": "/versions/hostile/rows@1",
    "sql": "/sql?q=select+pipeline,+state,+count(*)+as+runs,+max(started_at)+as+last+from+runs+group+by+all+order+by+1",
    "sql-wrong": "/sql?q=selec",
    "value": "/values/2/hostile/rows@1?path=text",
    "not-there": "/versions/nowhere",
}
REFUSED = {"dataset-condition-wrong", "sql-wrong", "not-there"}
"""Pages with an error, which the browser mentions on its console."""


def test_the_printed_address_opens_the_page_and_loses_its_token(shipped: Path, serve: Serve, browser: Browser) -> None:
    address = serve(shipped)
    with visiting(browser, address) as visited:
        assert visited.page.url == address.partition("?")[0]
        assert visited.page.get_by_role("heading", name="Runs").is_visible()
        assert visited.page.evaluate("document.cookie") == ""
        assert visited.said == []


@pytest.fixture(scope="module")
def walker(showcase: Path, browser: Browser) -> Iterator[Visited]:
    """Someone who has opened the page over the showcase, and looks at one page after the other."""
    with served(showcase) as address, visiting(browser, address) as visited:
        yield visited


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_fits_and_is_accessible(name: str, walker: Visited) -> None:
    walker.said.clear()
    walker.page.set_viewport_size({"width": WIDE, "height": 800})
    for scheme in ("dark", "light"):
        walker.page.emulate_media(color_scheme=scheme)
        if scheme == "dark":
            walker.open(PAGES[name])
        assert findings(walker.page) == [], scheme
        walker.picture(f"{name}{'-dark' if scheme == 'dark' else ''}")
    check(name, walker)
    walker.page.set_viewport_size({"width": NARROW, "height": 800})
    walker.open(PAGES[name])
    check(name, walker)
    walker.picture(f"{name}-narrow")


@pytest.mark.soak
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_in_a_narrow_window(name: str, walker: Visited) -> None:
    walker.page.set_viewport_size({"width": NARROW, "height": 800})
    walker.open(PAGES[name])
    assert findings(walker.page) == []


def check(name: str, walker: Visited) -> None:
    """The page is quiet, loads nothing from elsewhere, runs nothing of its rows, and fits."""
    assert [text for text in walker.said if name not in REFUSED or "Failed to load resource" not in text] == []
    assert walker.elsewhere == []
    assert walker.page.title() != "taken"
    assert walker.sticks_out() == []


def test_formulas_are_set_and_hostile_markdown_does_nothing(showcase: Path, serve: Serve, browser: Browser) -> None:
    with visiting(browser, serve(showcase)) as visited:
        page = visited.open("/versions/tutor/chats@1?look=markdown&size=25")
        assert page.locator("math").count() >= 75
        assert page.locator("[data-maths]:not(:has(math))").count() == 0
        page = visited.open(PAGES["dataset-hostile"])
        assert page.locator("main script, main iframe, main [onerror]").count() == 0
        assert page.locator("main img").count() == 1
        assert page.locator("main a[href^='javascript:']").count() == 0
        assert visited.elsewhere == []


def test_charts_are_drawn_and_say_the_same_as_a_table(showcase: Path, serve: Serve, browser: Browser) -> None:
    with visiting(browser, serve(showcase)) as visited:
        page = visited.open(PAGES["dataset-charts"])
        charts = page.locator("figure[data-chart]")
        assert charts.count() == 4
        topics = page.locator("figure", has_text="topic: values")
        assert topics.locator("svg[role=img] rect").count() == 4
        topics.locator("summary").click()
        assert topics.get_by_role("cell", name="geometry").is_visible()


def test_a_dataset_is_read_by_keyboard_alone(showcase: Path, serve: Serve, browser: Browser) -> None:
    with visiting(browser, serve(showcase)) as visited:
        page = visited.open(PAGES["dataset"])
        page.keyboard.press("Tab")
        skip = page.locator(":focus")
        assert skip.inner_text() == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "where":
                break
        page.keyboard.type("score = 5")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("where=score"))
        assert "that match" in page.locator(".toolbar").first.inner_text()
        page.get_by_role("link", name="answer").focus()
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("sort=answer"))
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("answer")
        page.locator("input[name=page]").first.fill("2")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("page=2"))
        assert "where=score" in page.url
        assert "sort=answer" in page.url


def test_a_query_is_written_and_saved(showcase: Path, serve: Serve, browser: Browser) -> None:
    with visiting(browser, serve(showcase)) as visited:
        page = visited.open("/versions/tutor/problems@2")
        page.get_by_role("navigation", name="Views").get_by_role("link", name="SQL").click()
        assert 'from "tutor/problems@2"' in page.locator("textarea").input_value()
        page.locator("textarea").fill('select topic, count(*) as n from "tutor/problems@2" group by 1 order by 1')
        page.get_by_role("button", name="Run").click()
        assert page.get_by_role("cell", name="algebra").is_visible()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as CSV").click()
        assert Path(download.value.path()).read_text().splitlines()[:2] == [
            "topic,n",
            f"algebra,{page.locator('td.n').first.inner_text()}",
        ]


def test_the_list_of_runs_follows_what_happens(registry: Registry, serve: Serve, browser: Browser) -> None:
    run = registry.catalog.begin_run("followed", {})
    with visiting(browser, serve(registry.root)) as visited:
        page = visited.page
        assert page.locator(".state.running").count() == 2  # of the run, and of its pipeline
        registry.catalog.end_run(run, "succeeded")
        page.locator("[data-live] .state.succeeded").first.wait_for(timeout=20_000)
        assert visited.said == []
