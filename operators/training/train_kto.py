"""Kahneman-Tversky optimisation on single completions labelled as desirable or undesirable, with TRL."""

from __future__ import annotations

from collections.abc import Iterator

from engine.operator import ChatModel, Context, Model, Table, operator
from operators.records import LabelledExample
from operators.training.settings import KTOSettings
from operators.training.train import train


@operator(outputs={"model": Model})
def train_kto(examples: Table[LabelledExample], ctx: Context, student: ChatModel, settings: KTOSettings) -> Iterator[Model]:
    """Train the student on completions that are desirable (label true) or undesirable (label false); this needs no pairs.

    Parameters: those below, every field of TRL's KTOConfig and, under `lora:`, every field of PEFT's LoraConfig.

    Metrics: those of train_sft; `kl` by step.

    Source: Ethayarajh et al. 2024 (arXiv 2402.01306).
    """
    yield train("kto", examples, ["completion"], settings, student, ctx)
