"""The quick tier notices when a test starts Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tiers import MARKERS, ray_processes


def test_a_process_of_ray_is_seen_among_the_descendants(tmp_path: Path) -> None:
    program = shutil.copy(shutil.which("sleep") or "", tmp_path / "raylet")
    shell = subprocess.Popen(["sh", "-c", f"{program} 60; true"])
    try:
        while not (seen := ray_processes()):
            assert shell.poll() is None
        assert any(each.startswith("raylet ") for each in seen)
    finally:
        for each in ray_processes():
            os.kill(int(each.split()[1]), 9)
        shell.wait()
    assert not ray_processes()


def test_markers_follow_from_fixtures(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    for marker, fixtures in MARKERS.items():
        for item in items:
            if fixtures & set(getattr(item, "fixturenames", ())):
                assert item.get_closest_marker(marker), item.nodeid
