"""Test tiers: markers that follow from the fixtures a test uses, so that nobody sets them by hand.

`make quick` runs the tests without any of these markers. While it does, a test that starts Ray fails.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

MARKERS = {
    "ray": {"ray_session", "engine"},
    "training": {"tiny_model"},
    "browser": {"browser"},
}
"""Marker -> fixtures. `engine` runs whole commands in processes of their own, and `engine run` starts Ray; `tiny_model` is a real
model that tests train or run, with torch."""

WHOLE_COMMANDS = Path(__file__).parent / "e2e"
_RAY = {"raylet", "gcs_server"}
_SECONDS = 0.5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the markers."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        for marker, needed in MARKERS.items():
            if fixtures & needed:
                item.add_marker(marker)
        if WHOLE_COMMANDS in item.path.parents:
            item.add_marker("ray")


@pytest.fixture(autouse=True, scope="session")
def _ray_watch(request: pytest.FixtureRequest) -> Iterator[_RayWatch | None]:
    """Looks for Ray's processes while tests run that are to do without."""
    if "not ray" not in request.config.option.markexpr:
        yield None
        return
    watch = _RayWatch()
    watch.start()
    yield watch
    watch.stop()


@pytest.fixture(autouse=True)
def _no_ray(_ray_watch: _RayWatch | None) -> Iterator[None]:
    """Fails a test that starts Ray although it is in the quick tier."""
    yield
    if _ray_watch and (seen := _ray_watch.seen()):
        pytest.fail(f"it started Ray ({seen}); tests that start Ray use the fixture `ray_session` or `engine`")


class _RayWatch(threading.Thread):
    """Samples the processes below this one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stopped = threading.Event()
        self._seen: set[str] = set()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._stopped.wait(_SECONDS):
            self._seen |= ray_processes()

    def seen(self) -> str:
        """Ray's processes that ran since the last call."""
        seen, self._seen = self._seen, set()
        return ", ".join(sorted(seen))

    def stop(self) -> None:
        """Stop sampling."""
        self._stopped.set()
        self.join()


def ray_processes() -> set[str]:
    """Ray's processes among the descendants of this one."""
    found = set()
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            name = process.name()
        except psutil.NoSuchProcess:
            continue
        if name in _RAY:
            found.add(f"{name} {process.pid}")
    return found
