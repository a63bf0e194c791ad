"""A review in a real browser: by keyboard alone, on a narrow window."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from registry import Registry
from tests.engine.page.conftest import Visit
from tests.engine.page.walking import findings
from tests.engine.run_pipelines import run_text
from tests.operators.generic.steps import rows, step
from tests.operators.generic.test_review import ROWS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def shot(page: Page, name: str) -> None:
    """Keep a picture where ENGINE_TEST_PICTURES says."""
    if folder := os.environ.get("ENGINE_TEST_PICTURES"):
        page.screenshot(path=str(Path(folder, f"{name}.png")), full_page=True)


def test_a_review_by_keyboard_alone(
    registry: Registry, in_process: None, serve: Callable[[Path], str], browser: Browser, visit: Visit
) -> None:
    rows(*ROWS, {"question": "What is\n" + "a long question? " * 60, "persona": "x" * 300, "n": 99})
    labels = ["easy", "hard", "of a length that wraps on a narrow window"]
    run_text(step("review", labels=labels, label_field="level", instructions="Is the question **clear**?"), registry)
    page = browser.new_page(viewport={"width": 360, "height": 640})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(serve(registry.root))
    page.get_by_role("link", name="Reviews").press("Enter")
    page.get_by_role("link", name="demo/step").press("Enter")
    assert page.get_by_label("Who are you?").evaluate("each => each === document.activeElement")
    shot(page, "review-name")
    page.keyboard.type("Ann")
    page.keyboard.press("Enter")
    page.wait_for_selector("form.asked")
    shot(page, "review-row")

    def decided(count: int) -> None:
        page.locator(f'progress[value="{count}"]').wait_for()

    page.keyboard.press("1")
    page.keyboard.press("a")
    decided(1)
    page.keyboard.press("r")
    page.keyboard.type("a is no verdict here")
    page.keyboard.press("Enter")
    decided(2)
    page.keyboard.press("e")
    assert page.locator("textarea").first.evaluate("each => each === document.activeElement")
    shot(page, "review-edit")
    page.keyboard.press("Control+a")
    page.keyboard.type("Why?")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('[role="alert"]')  # the label is missing
    assert page.locator("textarea").first.input_value() == "Why?"
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.locator("details.edit textarea").first.press("Control+Enter")
    decided(3)
    page.keyboard.press("u")
    decided(2)
    page.keyboard.press("s")
    page.locator("dl.record").get_by_text("What is 3 + 3?").wait_for()
    page.keyboard.press("1")
    page.keyboard.press("1")  # takes it back
    assert page.locator("input[name=label]:checked").count() == 0
    page.locator("details.edit summary").click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert findings(page) == [], scheme
    for width in (360, 1280):
        page.set_viewport_size({"width": width, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    shot(page, "review-wide")
    # A form that was refused is answered with 422, which the console reports.
    assert [text for text in said if "422" not in text] == []
    page.close()
    verdicts = [(each.verdict, each.labels, each.reason, each.fields) for each in registry.reviews.decisions()]
    assert verdicts == [
        ("approve", ("easy",), "", {}),
        ("reject", (), "a is no verdict here", {}),
        ("edit", ("hard",), "", {"question": "Why?"}),
        ("skip", (), "taken back", {}),
        ("skip", (), "", {}),
    ]
