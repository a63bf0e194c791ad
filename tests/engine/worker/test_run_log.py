"""What operators log goes to the file of their run."""

from __future__ import annotations

from pathlib import Path

from engine.worker.run_log import run_log


def test_a_second_run_in_the_same_process_logs_to_its_own_file(tmp_path: Path) -> None:
    run_log(tmp_path / "runs" / "one.log", "demo/step").info("first")
    run_log(tmp_path / "runs" / "two.log", "demo/step").info("second")
    run_log(tmp_path / "runs" / "two.log", "demo/step").info("third")
    one, two = ((tmp_path / "runs" / f"{name}.log").read_text() for name in ("one", "two"))
    assert [line.split()[-1] for line in one.splitlines()] == ["first"]
    assert [line.split()[-1] for line in two.splitlines()] == ["second", "third"]
