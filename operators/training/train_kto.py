"""Kahneman-Tversky optimisation with TRL: from single answers that are wanted or not, such as a judge's verdicts."""

from __future__ import annotations

from collections.abc import Iterator

from engine.operator import Context, Model, Table, operator
from operators.records import LabelledExample
from operators.training.settings import KTOSettings
from operators.training.students import foretold
from operators.training.train import train


@operator(
    outputs={"model": Model},
    models=["student"],
    calls=lambda settings: {},
    devices=lambda settings: settings.devices,
    foretells=foretold,
)
def train_kto(examples: Table[LabelledExample], ctx: Context, settings: KTOSettings) -> Iterator[Model]:
    """Train the student on completions that are wanted (label true) or not, which need not come in pairs.

    Parameters: those below, every field of TRL's KTOConfig, and under `lora:` every field of PEFT's LoraConfig.

    Metrics: as train_sft's; `kl` by step.

    Source: Ethayarajh et al. 2024 (arXiv 2402.01306).
    """
    yield train("kto", examples, ["completion"], settings, ctx)
