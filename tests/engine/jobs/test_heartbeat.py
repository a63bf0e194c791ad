"""The progress of workers is found again by run and step, also for steps of variants."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.jobs.heartbeat import Beat, Heartbeat, forget_heartbeats, owner_of, read_heartbeats


@pytest.mark.parametrize("step", ["sft", "lr=1e-05,teacher=a/sft", f"{'x' * 170}=1/{'s' * 64}"])
def test_a_step_finds_the_progress_of_its_own_workers(step: str, tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    for number, each in enumerate((step, "lr=2e-05/sft", "other"), 1):
        Heartbeat(folder, owner_of("run", each)).show(number, number)
    assert read_heartbeats(folder, owner_of("run", step)) == Beat(1, 1, "")
    forget_heartbeats(folder, owner_of("run", step))
    assert len(list(folder.iterdir())) == 2
