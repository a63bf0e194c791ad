"""Every page over registries that the shipped pipelines make, on the embedded models, in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from registry import Registry
from tests.conftest import Cli
from tests.engine.page.conftest import served
from tests.engine.page.walking import NARROW, WIDE, findings, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.engine.page.walking import Visited

pytestmark = pytest.mark.soak

PIPELINES = {
    "quickstart": ("problems=8", "attempts=1", "train_steps=2"),
    "personamath-mini": ("problems=8", "test=4", "train_steps=2"),
    "dialectical-mini": ("items=8", "test=4", "sft_steps=1", "dpo_steps=1"),
    "lofreecp-mini": ("questions=60", "new=10", "samples=6"),
}
"""Shipped pipelines that need no network, with parameters that make them small."""


def paths(registry: Registry) -> Iterator[tuple[str, str]]:
    """All pages of a registry, by the name of their picture: of each version, and of the first and the last row of each dataset."""
    yield from {"home": "/", "costs": "/costs", "sql": "/sql?q=from+step_runs"}.items()
    with registry.session() as session:
        runs = session.ask("select run_id from runs").rows
        versions = session.ask(
            "select name, version, kind, v.rows from versions v join datasets using (name) order by all"
        ).rows
    for (run,) in runs:
        yield "run", f"/runs/{run}"
    for name, version, kind, rows in versions:
        own = name.replace("/", "-")
        yield own, f"/versions/{name}@{version}"
        if kind == "dataset":
            for more in ("look=text", "look=markdown", "view=charts", "view=schema", "view=card", "view=diff"):
                yield f"{own}-{more.partition('=')[2]}", f"/versions/{name}@{version}?{more}"
            for row in sorted({0, rows - 1}) if rows else ():
                yield f"{own}-row-{row}", f"/rows/{row}/{name}@{version}"


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.timeout(1800)
def test_each_page_is_quiet_fits_and_is_accessible(pipeline: str, engine: Cli, registry: Registry, browser: Browser) -> None:
    settings = [word for each in PIPELINES[pipeline] for word in ("--set", each)]
    done = engine("run", pipeline, *settings, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    with served(registry.root) as address, visiting(browser, address) as visited:
        found = [
            (path, width, problems)
            for name, path in paths(registry)
            for width in (WIDE, NARROW)
            if (problems := _problems(visited, path, width, f"{pipeline}-{name}-{width}"))
        ]
    assert found == []


def _problems(visited: Visited, path: str, width: int, picture: str) -> list[str]:
    """What is wrong with a page."""
    visited.said.clear()
    visited.page.set_viewport_size({"width": width, "height": 900})
    visited.open(path)
    visited.picture(picture)
    return [*visited.said, *visited.elsewhere, *visited.sticks_out(), *(findings(visited.page) if width == WIDE else [])]
