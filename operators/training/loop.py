"""Trains on one device, alone or with others: builds TRL's trainer, resumes from a checkpoint, saves the result.

It depends neither on operators nor on Ray; it reads and writes one folder that all devices share.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.library_noise import quiet_transformers
from operators.training.exposure import counting, with_rows
from operators.training.library_warnings import collected_warnings
from operators.training.settings import DPOSettings, TrainingSettings
from operators.training.students import Student, load, save
from registry.counted import counted

Progress = Callable[[int, int, float], None]
"""Called with (step, number of steps, loss)."""

_LOGGED = ("loss", "learning_rate", "grad_norm", "rewards/accuracies", "rewards/margins", "kl")
_KEPT = 2
_TOLERANCE = 0.05


class InvariantError(Exception):
    """The first loss is not what it must be."""


@dataclass(frozen=True)
class Training:
    """Everything that defines a training.

    Attributes:
        kind: the trainer.
        settings: the settings of the training.
        student: the model to train.
        rows: the rows in TRL's format, each with its number in the column ROW.
        seed: the seed of all random numbers.
        folder: the folder of checkpoints and results; absolute, on a disk that all devices share.
    """

    kind: Literal["sft", "dpo", "kto"]
    settings: TrainingSettings
    student: Student
    rows: list[dict[str, Any]]
    seed: int
    folder: Path

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    @property
    def history(self) -> Path:
        """The file with (metric, step, value) for every step, the number of trained parameters, and notes for users."""
        return self.folder / "history.json"

    def seen(self, rank: int) -> Path:
        """The file with the rows that a device saw, and how often."""
        return self.folder / f"seen-{rank}.json"


def run(training: Training, progress: Progress, rank: int = 0) -> None:
    """Train, from the last checkpoint if there is one; the result is in the training's folder.

    Raises:
        InvariantError: DPO's first loss is not ln 2, so the reference is not the model that training started from.
    """
    quiet_transformers()
    with collected_warnings() as warned:
        _run(training, progress, rank, warned)


def _run(training: Training, progress: Progress, rank: int, warned: list[str]) -> None:
    from transformers import AutoTokenizer, set_seed

    set_seed(training.seed)
    tokenizer = AutoTokenizer.from_pretrained(training.student.folder)
    checkpoint = last_checkpoint(training.folder, training.settings.devices)
    seen = (
        Counter({int(row): times for row, times in _read(checkpoint / training.seen(rank).name)}) if checkpoint else Counter()
    )
    trainer = _trainer(training, tokenizer, seen, progress, rank)
    if left_out := len(training.rows) - len(trainer.train_dataset):
        warned.append(f"trl left out {left_out:,} of {counted(training.rows, 'row')}: no completion tokens to learn from")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    training.seen(rank).write_text(json.dumps(sorted(seen.items())))
    if rank == 0:
        model = trainer.accelerator.unwrap_model(trainer.model)
        trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
        logged = [
            (name, entry["step"], entry[name]) for entry in trainer.state.log_history for name in _LOGGED if name in entry
        ]
        shutil.rmtree(training.model, ignore_errors=True)
        save(model, tokenizer, training.model, training.student, training.settings)
        training.history.write_text(json.dumps({"trainable_parameters": trainable, "logged": logged, "notes": warned}))


def last_checkpoint(folder: Path, devices: int) -> Path | None:
    """The newest checkpoint that every device has finished."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in found if len(list(path.glob("seen-*.json"))) == devices), None)


def replace_json(file: Path, data: object) -> None:
    """Write a file in one step, so that readers in other processes see the old content or the new one, never a part of it.

    It protects against a kill, not against a power failure: like the rest of a checkpoint, the file is not flushed to disk.
    """
    building = file.with_suffix(".tmp")
    building.write_text(json.dumps(data))
    building.replace(file)


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def _trainer(training: Training, tokenizer: Any, seen: Counter[int], progress: Progress, rank: int) -> Any:
    from datasets import Dataset

    model, adapter = load(training.student, training.settings)
    maker, config = _classes(training.kind)
    more: dict[str, Any] = {"peft_config": adapter}
    if training.kind != "sft" and training.settings.lora is None:
        # Otherwise TRL would load the reference from the student's folder, without the merged adapter.
        more["ref_model"] = load(training.student, training.settings)[0]
    trainer = counting(maker, lambda row: seen.update([row]))(
        model,
        args=config(**_arguments(training)),
        # Otherwise calls of different tools would get each other's arguments, with nulls.
        train_dataset=Dataset.from_list(training.rows, on_mixed_types="use_json" if _calls_tools(training.rows) else None),
        processing_class=tokenizer,
        callbacks=[_callback(training, seen, progress, rank)],
        **more,
    )
    trainer.data_collator = with_rows(trainer.data_collator)
    return trainer


def _calls_tools(rows: list[dict[str, Any]]) -> bool:
    return any(turn.get("tool_calls") for row in rows for turns in row.values() if isinstance(turns, list) for turn in turns)


def _classes(kind: str) -> tuple[Any, Any]:
    import trl

    name = kind.upper()
    return getattr(trl, f"{name}Trainer"), getattr(trl, f"{name}Config")


def _arguments(training: Training) -> dict[str, Any]:
    """The fields of TRL's configuration: our values, overridden by those that the pipeline sets."""
    import torch

    settings = training.settings
    cuda = torch.cuda.is_available()
    ours: dict[str, Any] = {
        "output_dir": str(training.folder),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "max_length": settings.max_length,
        "warmup_steps": int(settings.warmup_ratio * settings.steps(len(training.rows))),
        "lr_scheduler_type": settings.lr_scheduler,
        "bf16": cuda and torch.cuda.is_bf16_supported() and not settings.config.get("fp16"),
        "activation_checkpointing": cuda,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_steps,
        "save_total_limit": _KEPT,
        "report_to": [],
        "disable_tqdm": True,
        "seed": training.seed,
    }
    if settings.devices > 1 and not cuda:
        ours["ddp_backend"] = "gloo"
    if training.kind == "sft":
        ours["completion_only_loss"] = True
    else:
        own = settings.model_dump(include={"beta", "loss_type", "desirable_weight", "undesirable_weight"})
        ours |= own
    return ours | settings.config


def _callback(training: Training, seen: Counter[int], progress: Progress, rank: int) -> Any:
    from transformers import TrainerCallback

    class Callback(TrainerCallback):  # type: ignore[misc]
        """Reports the loss, and adds to each checkpoint the rows seen so far."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= state.max_steps:
                control.should_save = False  # the model is about to be saved

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            file = training.folder / f"checkpoint-{state.global_step}" / training.seen(rank).name
            replace_json(file, sorted(seen.items()))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                if state.global_step == 1:
                    check_first_loss(training, logs["loss"])
                progress(state.global_step, state.max_steps, float(logs["loss"]))

    return Callback()


def check_first_loss(training: Training, loss: float) -> None:
    """Before the first update, the policy equals its reference, so DPO's loss is ln 2 (Rafailov et al. 2023, eq. 7)."""
    settings = training.settings
    if not isinstance(settings, DPOSettings) or settings.loss_type not in ("sigmoid", ["sigmoid"]):
        return
    if not settings.config.get("disable_dropout", True):
        return
    if abs(loss - math.log(2)) > _TOLERANCE:
        raise InvariantError(
            f"the first loss is {loss:.4f} instead of ln 2: the reference is not the model that training started from"
        )
