"""Supervised fine-tuning with TRL, of all weights or of a LoRA adapter."""

from __future__ import annotations

from collections.abc import Iterator

from engine.operator import ChatModel, Context, Model, Table, operator
from operators.records import SFTExample
from operators.training.settings import SFTSettings
from operators.training.train import train


@operator(outputs={"model": Model})
def train_sft(examples: Table[SFTExample], ctx: Context, student: ChatModel, settings: SFTSettings) -> Iterator[Model]:
    """Fine-tune the student on examples; the loss is on the completions only.

    The view `training_exposure` shows which rows the trainer saw, and how often. A training that was killed continues from its
    last checkpoint, with the same losses as without the interruption.

    Parameters: those below, every field of TRL's SFTConfig, and under `lora:` every field of PEFT's LoraConfig. The names that
    LLaMA-Factory and axolotl use are accepted, too (`cutoff_len`, `micro_batch_size`, `lora_target: all`, ...); `engine plan`
    shows how they were understood.

    Metrics: `loss` and `learning_rate` by step; `rows`, `rows_truncated` and `rows_dropped` (so long that nothing of the
    completion fits into max_length); `trainable_parameters`. The model's files include the loss curve as loss.png.

    Source: PersonaMath (arXiv 2410.01504) uses 3 epochs, a cosine schedule and a warm-up of 0.03; its learning rate of 2e-5
    is for all weights (`lora: null`), while 2e-4 is usual for LoRA.
    """
    yield train("sft", examples, ["completion"], settings, student, ctx)
