"""Code that the training operators share: it trains a student on rows, with metrics and a loss curve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any, Literal

from engine.operator import ChatModel, Context, Model, Reject, Table
from operators.charts import save_lines
from operators.training.exposure import ROW
from operators.training.launch import launch
from operators.training.library_warnings import collected_warnings
from operators.training.loop import InvariantError, Training
from operators.training.settings import KTOSettings, TrainingSettings
from operators.training.students import Student
from operators.training.trainable_rows import SequenceLimit, trainable_rows

CURVE = "loss.png"


def train(
    kind: Literal["sft", "dpo", "kto"],
    table: Table[Any],
    completions: Sequence[str],
    settings: TrainingSettings,
    role: ChatModel,
    ctx: Context,
) -> Model:
    """Train a model on a table's rows.

    Metrics: those of `trainable_rows`; `loss`, `learning_rate`, `grad_norm` and the trainer's other measures by step;
    `trainable_parameters`.

    Args:
        kind: the trainer.
        table: the rows.
        completions: the fields that contain completions.
        settings: the settings of this kind of training.
        role: the student, a model that runs in this process.
        ctx: the operator's context.
    """
    from transformers import AutoConfig, AutoTokenizer

    student = Student(*role.weights)
    try:
        settings = student.trained_as(settings)
    except ValueError as error:
        raise Reject(str(error)) from error
    with collected_warnings() as warned:
        tokenizer = AutoTokenizer.from_pretrained(student.folder)
        limit = SequenceLimit.of(AutoConfig.from_pretrained(student.folder))
        rows = trainable_rows(
            (row.model_dump(exclude_none=True) for row in table), completions, tokenizer, settings.max_length, ctx, limit
        )
    if isinstance(settings, KTOSettings) and settings.compares and len(rows) < 2:
        raise Reject("KTO estimates its KL term from other rows, but there is only one row; add rows, or use train_sft")
    training = Training(kind, settings, student, rows, ctx.seed, ctx.checkpoints.absolute())
    try:
        launch(training, lambda step, total, loss: ctx.progress(step, total, f"loss {loss:.3f}"), ctx.device)
    except InvariantError as error:
        raise Reject(str(error)) from error
    for each in rows:
        ctx.seen(table.ref(each[ROW]), 0)
    for rank in range(settings.devices):
        for row, times in json.loads(training.seen(rank).read_text()):
            ctx.seen(table.ref(row), times)
    for text in dict.fromkeys((*warned, *json.loads(training.history.read_text())["notes"])):
        ctx.note(text)
    return _finished(training, ctx)


def _finished(training: Training, ctx: Context) -> Model:
    found = json.loads(training.history.read_text())
    curve: list[tuple[float, float]] = []
    for name, step, value in found["logged"]:
        ctx.report(name, value, f"step {step}")
        if name == "loss":
            curve.append((step, value))
    ctx.report("trainable_parameters", found["trainable_parameters"])
    folder = ctx.scratch / "model"
    shutil.copytree(training.model, folder)
    save_lines(folder / CURVE, {training.kind: curve}, "Training", "step", "loss")
    settings = training.settings.model_dump(mode="json") | {"kind": training.kind, "seed": training.seed}
    return Model(
        base_model=training.student.name,
        format=training.student.results_in(training.settings),
        config=json.dumps(settings, sort_keys=True),
        files=ctx.keep(folder),
    )
