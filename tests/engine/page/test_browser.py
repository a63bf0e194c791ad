"""Pages in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_the_printed_address_opens_the_page_and_loses_its_token(
    shipped: Path, serve: Callable[[Path], str], browser: Browser
) -> None:
    address = serve(shipped)
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(address)
    assert page.url == address.partition("?")[0]
    assert page.get_by_role("heading", name="Runs").is_visible()
    assert said == []
    page.close()
