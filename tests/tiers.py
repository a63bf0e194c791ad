"""Test tiers: markers that follow from the fixtures and the folder of a test. Few are set by hand.

A test without any of the markers below that is not a long proof (`soak`) is in the tier `quick`, which `make quick` runs before a
commit. In that tier, a test that starts Ray fails.
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
    "training": {"tiny_model", "encoder_folder"},
    "pipeline": {"in_process"},
    "browser": {"browser"},
    "proof": {"small_disk", "undisturbed"},
}
"""Marker -> fixtures. `engine` runs whole commands in processes of their own, and `engine run` starts Ray; `tiny_model` and
`encoder_folder` are real models that tests train or run, with torch; `in_process` runs whole pipelines in the test's process;
`small_disk` is a disk that fills up; `undisturbed` is compared with the results of kills at every point. Other long proofs, such as
simulations and races of many processes, set `proof` themselves, and tests that start Ray on their own set `ray`."""

FOLDERS = {
    "e2e": "ray",
    "hostile": "attack",
    "engine/page": "page",
    "engine/export": "edge",
    "engine/llm/batches": "edge",
    "engine/upkeep": "edge",
    "registry/upkeep": "edge",
    "docs": "edge",
}
"""Folder of tests -> marker."""

_RAY = {"raylet", "gcs_server"}
_SECONDS = 0.5


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the markers."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        path = item.path.relative_to(Path(__file__).parent)
        markers = [marker for marker, needed in MARKERS.items() if fixtures & needed]
        markers += [marker for folder, marker in FOLDERS.items() if path.is_relative_to(folder)]
        markers += ["proof"] if _draws(item) else []
        for marker in markers:
            item.add_marker(marker)
        if not any(item.get_closest_marker(marker) for marker in ("soak", *MARKERS, *FOLDERS.values())):
            item.add_marker("quick")


def _draws(item: pytest.Item) -> bool:
    """Whether hypothesis draws many examples for a test, or many runs of a state machine."""
    test, module = getattr(item, "obj", None), getattr(item, "module", None)
    return getattr(test, "is_hypothesis_test", False) or hasattr(module, "RuleBasedStateMachine")


@pytest.fixture(autouse=True, scope="session")
def _ray_watch(request: pytest.FixtureRequest) -> Iterator[_RayWatch | None]:
    """Looks for Ray's processes while tests run that must not start Ray."""
    if request.config.option.markexpr != "quick":
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
