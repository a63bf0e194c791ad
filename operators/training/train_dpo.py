"""Direct preference optimisation of all weights or a LoRA adapter, with TRL."""

from __future__ import annotations

from collections.abc import Iterator

from engine.operator import ChatModel, Context, Model, Table, operator
from operators.records import PreferencePair
from operators.training.settings import DPOSettings
from operators.training.train import train


@operator(outputs={"model": Model})
def train_dpo(pairs: Table[PreferencePair], ctx: Context, student: ChatModel, settings: DPOSettings) -> Iterator[Model]:
    """Train the student to prefer chosen completions to rejected ones, while staying close to the original model.

    The reference is the student before training. The first loss is therefore ln 2 (with `loss_type: sigmoid`); if it is not,
    training stops at once. A student that is an adapter, such as the result of train_sft, is trained further
    (`student_adapter: continue`) or merged into the weights first (`merge`).

    Parameters: those below, every field of TRL's DPOConfig (`loss_type` is sigmoid, ipo, robust with `label_smoothing`, hinge,
    apo_zero, ..., or a list with `loss_weights`) and, under `lora:`, every field of PEFT's LoraConfig. The names that
    LLaMA-Factory and axolotl use (`pref_beta`, `pref_loss`, ...) are also accepted.

    Metrics: those of train_sft; `rewards/accuracies` and `rewards/margins` by step.

    Source: Rafailov et al. 2023 (arXiv 2305.18290); the loss types are TRL's.
    """
    yield train("dpo", pairs, ["chosen", "rejected"], settings, student, ctx)
