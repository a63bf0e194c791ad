"""Supervised fine-tuning of all weights or a LoRA adapter, with TRL."""

from __future__ import annotations

from collections.abc import Iterator

from engine.operator import ChatModel, Context, Model, Table, operator
from operators.records import SFTExample
from operators.training.settings import SFTSettings
from operators.training.train import train


@operator(outputs={"model": Model})
def train_sft(examples: Table[SFTExample], ctx: Context, student: ChatModel, settings: SFTSettings) -> Iterator[Model]:
    """Fine-tune the student on examples; only completions contribute to the loss.

    The view `training_exposure` shows which rows the trainer saw, and how often. If training is interrupted, it continues from
    its last checkpoint, with the same losses as without the interruption.

    Parameters: those below, every field of TRL's SFTConfig and, under `lora:`, every field of PEFT's LoraConfig. The names that
    LLaMA-Factory and axolotl use (`cutoff_len`, `micro_batch_size`, `lora_target: all`, ...) are also accepted; `engine plan`
    shows how they are understood.

    Metrics: `loss` and `learning_rate` by step; `rows`, `rows_truncated` and `rows_dropped` (those whose prompt leaves no room
    for a completion within max_length); `trainable_parameters`. The model's files include the loss curve as loss.png.

    Source: PersonaMath (arXiv 2410.01504) uses 3 epochs, a cosine schedule and a warm-up ratio of 0.03. Its learning rate of
    2e-5 is for all weights (`lora: null`); for LoRA, 2e-4 is usual.
    """
    yield train("sft", examples, ["completion"], settings, student, ctx)
