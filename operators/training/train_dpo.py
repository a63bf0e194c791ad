"""Direct preference optimisation with TRL, of all weights or of a LoRA adapter."""

from __future__ import annotations

from collections.abc import Iterator

from engine.operator import Context, Model, Table, operator
from operators.records import PreferencePair
from operators.training.settings import DPOSettings
from operators.training.students import foretold
from operators.training.train import train


@operator(
    outputs={"model": Model},
    models=["student"],
    calls=lambda settings: {},
    devices=lambda settings: settings.devices,
    foretells=foretold,
)
def train_dpo(pairs: Table[PreferencePair], ctx: Context, settings: DPOSettings) -> Iterator[Model]:
    """Train the student to prefer what was chosen to what was rejected, without leaving itself too far behind.

    The reference is the student as it comes in: so its first loss is ln 2 (with `loss_type: sigmoid`), and a training where
    it is not stops at once. A student that is an adapter, as train_sft makes one, is trained on (`student_adapter:
    continue`) or put into the weights first (`merge`).

    Parameters: those below, every field of TRL's DPOConfig (`loss_type` is sigmoid, ipo, robust with `label_smoothing`, hinge,
    apo_zero, ..., or a list with `loss_weights`), and under `lora:` every field of PEFT's LoraConfig; the names of
    LLaMA-Factory and axolotl (`pref_beta`, `pref_loss`, ...), too.

    Metrics: as train_sft's; `rewards/accuracies` and `rewards/margins` by step.

    Source: Rafailov et al. 2023 (arXiv 2305.18290); loss types are TRL's.
    """
    yield train("dpo", pairs, ["chosen", "rejected"], settings, ctx)
