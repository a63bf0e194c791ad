"""A bundle opened from disk in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.page.bundle.file_links import ADDRESSES, file_of
from engine.page.bundle.writing import write_bundle
from registry import Registry
from tests.engine.page.walking import drawn, findings, fits

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGES = {
    "run": "index.html",
    "rows": file_of(ADDRESSES.version("demo/judged", 1), ""),
    "text": file_of(ADDRESSES.version("demo/judged", 1, look="text"), ""),
    "markdown": file_of(ADDRESSES.version("demo/judged", 1, look="markdown"), ""),
    "charts": file_of(ADDRESSES.version("demo/judged", 1, view="charts"), ""),
    "schema": file_of(ADDRESSES.version("demo/judged", 1, view="schema"), ""),
    "card": file_of(ADDRESSES.version("demo/judged", 1, view="card"), ""),
    "row": file_of(ADDRESSES.row("demo/judged", 1, 4), ""),
    "model": file_of(ADDRESSES.version("demo/sft", 1), ""),
    "calibration": file_of(ADDRESSES.version("demo/calibrated", 1), ""),
}


class Reader:
    """Someone who opens files of a bundle; `said` is what the console printed, `asked` what the browser loaded."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.said: list[str] = []
        self.asked: set[str] = set()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.add(request.url))

    def open(self, file: str) -> Page:
        """A page, when its graphs and charts are drawn."""
        self.page.goto((self.folder / file).resolve().as_uri())
        drawn(self.page)
        return self.page


@pytest.fixture(scope="module")
def reader(crafted: tuple[Path, str, str], browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader of a copy of a run."""
    root, run, _ = crafted
    done = write_bundle(Registry(root), run, tmp_path_factory.mktemp("bundle") / "out", limit=50_000_000)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield Reader(page, done.folder)
    page.close()


def test_pages_are_drawn_from_disk_load_nothing_else_and_are_accessible(reader: Reader) -> None:
    for name, file in PAGES.items():
        reader.page.set_viewport_size({"width": 1280, "height": 900})
        page = reader.open(file)
        assert page.locator("p.copy").inner_text().startswith("A copy of run ")
        assert fits(page), name
        reader.page.set_viewport_size({"width": 360, "height": 900})
        reader.open(file)
        assert fits(page), name
        assert reader.said == []
        if name in ("run", "rows", "row"):  # the others are those of a live page
            assert findings(page) == [], name
            reader.said.clear()  # axe asks for style sheets, which the page forbids
    root = reader.folder.resolve().as_uri()
    assert all(url.startswith((root, "data:")) for url in reader.asked)
    reader.page.set_viewport_size({"width": 1280, "height": 900})


def test_links_lead_from_the_run_to_a_row_and_its_seed(reader: Reader) -> None:
    page = reader.open(PAGES["run"])
    page.locator(".graph a", has_text="judged@1").click()
    page.get_by_role("heading", name="demo/judged@1").wait_for()
    page.locator("thead a", has_text="score").click()
    page.wait_for_function("document.querySelector('th[aria-sort=ascending]')")
    page.locator("thead a", has_text="score").click()
    page.wait_for_function("document.querySelector('th[aria-sort=descending]')")
    assert page.locator("tbody tr").first.locator("th").inner_text() == "4"
    page.locator("tbody th a").first.click()
    page.get_by_role("heading", name="Row 4 of demo/judged@1").wait_for()
    page.locator(".graph a", has_text="row 1 of seeds").click()
    page.get_by_role("heading", name="Row 1 of demo/seeds@1").wait_for()
    page.locator("a.brand").click()
    page.get_by_role("heading", name="Run of demo").wait_for()
    assert reader.said == []


def test_hostile_rows_and_names_run_nothing(crafted: tuple[Path, str, str], browser: Browser, tmp_path: Path) -> None:
    root, _, bad = crafted
    done = write_bundle(Registry(root), bad, tmp_path / "out", limit=50_000_000)
    page = browser.new_page()
    reader = Reader(page, done.folder)
    page.on("dialog", lambda dialog: reader.said.append(dialog.message))
    files = sorted(done.folder.rglob("*.html"))
    values = [file for file in files if file.parent.name == "values"]
    for file in [each for each in files if each not in values[1:]]:  # the others are pages of the same kind, and as long
        reader.open(str(file.relative_to(done.folder)))
        assert page.evaluate("getComputedStyle(document.querySelector('main')).paddingTop") != "0px"  # styles are loaded
    assert reader.said == []
    page.close()
