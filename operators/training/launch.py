"""Runs training in this process, or on several devices through Ray Train."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from operators.training.loop import Progress, Training, last_checkpoint, replace_json, run

_FAILURES = 2
_LOOK_SECONDS = 0.5


def launch(training: Training, progress: Progress, resources: Mapping[str, float]) -> None:
    """Train; see `run`.

    Args:
        training: the training to run.
        progress: called after each step.
        resources: the resources of each device, by Ray's names (`CPU`, `GPU`).
    """
    _tidy(training)
    if training.settings.devices == 1:
        run(training, progress)
    else:
        _on_several(training, progress, resources)


def _tidy(training: Training) -> None:
    """Remove what a crash left behind: unfinished checkpoints and the progress file."""
    training.folder.mkdir(parents=True, exist_ok=True)
    _progress_file(training.folder).unlink(missing_ok=True)
    last = last_checkpoint(training.folder, training.settings.devices)
    for path in training.folder.glob("checkpoint-*"):
        if last is None or int(path.name.rpartition("-")[2]) > int(last.name.rpartition("-")[2]):
            shutil.rmtree(path)


def _on_several(training: Training, progress: Progress, resources: Mapping[str, float]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    scaling = ScalingConfig(
        num_workers=training.settings.devices,
        use_gpu=resources.get("GPU", 0) > 0,
        resources_per_worker={name: amount for name, amount in resources.items() if amount},
    )
    config = RunConfig(name="ray", storage_path=str(training.folder), failure_config=FailureConfig(max_failures=_FAILURES))
    trainer = TorchTrainer(_device, train_loop_config={"training": training}, scaling_config=scaling, run_config=config)
    with _following(_progress_file(training.folder), progress):
        trainer.fit()


def _device(config: dict[str, Any]) -> None:
    """Runs on each device, in a thread of a Ray worker with another working folder."""
    from ray.train import get_context

    training: Training = config["training"]
    rank = get_context().get_world_rank()
    file = _progress_file(training.folder)

    def write(step: int, total: int, loss: float) -> None:
        if rank == 0:
            replace_json(file, [step, total, loss])

    run(training, write, rank)


def _progress_file(folder: Path) -> Path:
    return folder / "progress.json"


class _following:  # noqa: N801  (a context manager)
    """Reports the progress that a device writes to a file from another process."""

    def __init__(self, file: Path, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            with suppress(FileNotFoundError):
                self._progress(*json.loads(self._file.read_text()))
