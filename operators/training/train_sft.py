"""Supervised fine-tuning with TRL, of all weights or of a LoRA adapter."""

from __future__ import annotations

from collections.abc import Iterator

from engine.operator import Context, Model, Table, operator
from operators.records import SFTExample
from operators.training.settings import SFTSettings
from operators.training.students import foretold
from operators.training.train import train


@operator(
    outputs={"model": Model},
    models=["student"],
    calls=lambda settings: {},
    devices=lambda settings: settings.devices,
    foretells=foretold,
)
def train_sft(examples: Table[SFTExample], ctx: Context, settings: SFTSettings) -> Iterator[Model]:
    """Fine-tune the student on examples; the loss is on the completions only.

    Which rows the trainer went through, and how often, stands in the view `training_exposure`. A training that was killed
    goes on from its last checkpoint, with the losses that it would have had.

    Parameters: those below, every field of TRL's SFTConfig, and under `lora:` every field of PEFT's LoraConfig. The names that
    LLaMA-Factory and axolotl have for them are taken, too (`cutoff_len`, `micro_batch_size`, `lora_target: all`, ...); `engine
    plan` says how they were read.

    Metrics: `loss` and `learning_rate` by step, `rows`, `rows_truncated` and `rows_dropped` (longer than max_length with
    nothing of the completion left), `trainable_parameters`. The model's files have the loss curve as loss.png.

    Source: the settings of PersonaMath (arXiv 2410.01504) are epochs 3, cosine, warm-up 0.03; its learning rate of 2e-5 is
    for all weights (`lora: null`), 2e-4 is usual for LoRA.
    """
    yield train("sft", examples, ["completion"], settings, ctx)
