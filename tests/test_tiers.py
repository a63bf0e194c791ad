"""The quick tier notices when a test starts Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tiers import MARKERS, ray_processes


@pytest.mark.ray  # in `make quick`, the watch over the tests would see it as well
def test_a_process_of_ray_is_seen_among_the_descendants(tmp_path: Path) -> None:
    before = set(ray_processes())  # the session's own Ray, if another test started it
    program = shutil.copy(shutil.which("sleep") or "", tmp_path / "raylet")
    shell = subprocess.Popen(["sh", "-c", f"{program} 60; true"])
    started: set[str] = set()
    try:
        while not (started := set(ray_processes()) - before):
            assert shell.poll() is None
        assert [each.split()[0] for each in started] == ["raylet"]
    finally:
        for each in started:
            os.kill(int(each.split()[1]), 9)
        shell.wait()
    assert not started & set(ray_processes())


def test_markers_follow_from_fixtures(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    for marker, fixtures in MARKERS.items():
        for item in items:
            if fixtures & set(getattr(item, "fixturenames", ())):
                assert item.get_closest_marker(marker), item.nodeid
