"""The first page."""

from __future__ import annotations

from pathlib import Path

from tests.engine.page.conftest import Visit


def test_the_first_page_lists_runs_and_names(shipped: Path, visit: Visit) -> None:
    text = visit(shipped).get("/").text
    assert text.count('class="state succeeded"') == 4
    for name in ("distil/rows", "judge-and-filter/best.kept", "preferences/pairs"):
        assert f"<bdi>{name}</bdi>" in text
