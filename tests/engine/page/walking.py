"""Visits pages in a browser: records what they print on the console, whether they fit, and what axe finds; takes pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PICTURES = Path(__file__).parents[3] / "build" / "screenshots"
WIDE, NARROW, TALLEST = 1280, 360, 20_000


@dataclass
class Visited:
    """A page, with its console output, its requests to other servers, and its errors."""

    page: Page
    base: str
    said: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        """Open a page of the site, and wait until its graphs and charts are drawn."""
        self.page.goto(self.base + path)
        drawn(self.page)
        return self.page

    def sticks_out(self) -> list[str]:
        """Elements that are wider than the window and not inside something that scrolls."""
        script = """() => document.documentElement.scrollWidth <= document.documentElement.clientWidth ? [] :
            [...document.querySelectorAll('body *')]
                .filter((each) => each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0 && getComputedStyle(each).overflowX === 'visible'
                    && !each.closest('.scroll, pre, .markdown table, svg'))
                .map((each) => each.outerHTML.slice(0, 150))"""
        found: list[str] = self.page.evaluate(script)
        return found

    def picture(self, name: str) -> None:
        """Take a picture of the page; of a very long one, of its first window."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        tall = self.page.evaluate("document.documentElement.scrollHeight") > TALLEST
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=not tall)


def drawn(page: Page) -> None:
    """Wait until the graphs and charts of a page are drawn."""
    page.wait_for_load_state("load")
    page.wait_for_function(
        "[...document.querySelectorAll('figure:is([data-graph], [data-chart]) .drawing')].every(each => each.querySelector('svg'))"
    )


def findings(page: Page) -> list[str]:
    """The serious and critical findings of axe on a page."""
    from axe_playwright_python.sync_playwright import Axe

    found: dict[str, Any] = Axe().run(page).response
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:3]
    ]


def fits(page: Page) -> bool:
    """Whether a page is no wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


@contextmanager
def visiting(browser: Browser, address: str, *, width: int = WIDE, dark: bool = False) -> Iterator[Visited]:
    """A window of the browser on the page at the address that was printed."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    page = context.new_page()
    base = address.partition("/?")[0]
    visited = Visited(page, base)
    page.on("console", lambda message: visited.said.append(message.text))
    page.on("pageerror", lambda error: visited.said.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((base, "data:")) else visited.elsewhere.append(request.url)
    )
    page.goto(address)
    try:
        yield visited
    finally:
        context.close()
