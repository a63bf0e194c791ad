"""`kill -9` of a whole run during training: the next run resumes from the last checkpoint and gets the same model."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from registry import Registry
from tests.engine.run_pipelines import ask
from tests.processes import kill_tree

STEPS = 240  # so many that the rest of an interrupted training takes long enough to be seen at work


def write_pipeline(folder: Path, model: Path, devices: int) -> None:
    folder.mkdir()
    turns = {"prompt": "user", "completion": "assistant"}
    rows = [{field: [{"role": role, "content": f"{field} {n}"}] for field, role in turns.items()} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"max_steps": STEPS, "batch_size": 2, "checkpoint_steps": 5, "devices": devices}
    document = {
        "name": "demo",
        "models": {"student": {"provider": "transformers", "model": str(model)}},
        "datasets": {"rows": {"type": "SFTExample", "path": "rows.jsonl"}},
        "steps": {"sft": {"op": "train_sft", "in": "rows", "with": settings}},
    }
    (folder / "p.yaml").write_text(json.dumps(document))


def killed_in_training(folder: Path, after: int) -> None:
    """Run, and kill everything as soon as the checkpoint of a step exists."""
    kill_tree(trained_until(folder, after))


def trained_until(folder: Path, step: int) -> subprocess.Popen[bytes]:
    """A run whose checkpoint of a step exists."""
    command = [sys.executable, "-m", "engine.cli", "run", "p.yaml"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(folder.glob(f".engine/receipts/*/checkpoints/checkpoint-{step}/seen-*.json")):
        assert process.poll() is None, "the run came to its end before it could be killed"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    return process


def finished(folder: Path) -> set[int]:
    """Run to the end; return the steps that its heartbeats have named."""
    command = [sys.executable, "-m", "engine.cli", "run", "p.yaml"]
    named: set[int] = set()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        while process.poll() is None:
            for file in folder.glob(".engine/receipts/*/*.heartbeat"):
                with contextlib.suppress(FileNotFoundError):  # the step has ended
                    named.add(json.loads(file.read_text())[0])
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    assert process.returncode == 0, (folder / "output").read_text()
    return named


def found(folder: Path) -> tuple[list[Any], list[Any], list[Any]]:
    registry = Registry(folder / ".engine")
    return (
        ask(registry, "select content_id from versions where name = 'demo/sft'"),
        ask(registry, "select slice, value from metrics where metric = 'loss' order by all"),
        ask(registry, "select row, times_seen from training_exposure order by row"),
    )


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("devices", [1, 2])
def test_a_killed_run_resumes_its_training(workdir: Path, tiny_model: Path, devices: int) -> None:
    for name in ("undisturbed", "killed"):
        write_pipeline(workdir / name, tiny_model, devices)
    finished(workdir / "undisturbed")
    for after in (10, 30):
        killed_in_training(workdir / "killed", after)
    for left in (workdir / "killed").glob(".engine/receipts/*/*.heartbeat"):
        left.unlink()
    named = finished(workdir / "killed") - {0}
    assert named
    assert min(named) > 30
    assert found(workdir / "killed") == found(workdir / "undisturbed")
    assert not list((workdir / "killed").glob(".engine/receipts/*/checkpoints"))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_crashed_device_is_replaced_and_training_continues(workdir: Path, tiny_model: Path) -> None:
    for name in ("undisturbed", "crashed"):
        write_pipeline(workdir / name, tiny_model, devices=2)
    finished(workdir / "undisturbed")
    process = trained_until(workdir / "crashed", 10)
    workers = [
        each for each in psutil.Process(process.pid).children(recursive=True) if "TrainWorker" in " ".join(each.cmdline())
    ]
    assert len(workers) == 2
    workers[0].kill()
    assert process.wait(300) == 0
    assert found(workdir / "crashed") == found(workdir / "undisturbed")
