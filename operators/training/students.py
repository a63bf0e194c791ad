"""The student as a trainer takes it: full weights, or full weights with an adapter that is trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from operators.training.settings import Lora, TrainingSettings


@dataclass(frozen=True)
class Student:
    """Where a student's weights are.

    Attributes:
        folder: of its full weights and tokenizer.
        adapter: of an adapter on them.
        name: what a pipeline names the full weights by.
    """

    folder: Path
    adapter: Path | None
    name: str

    def results_in(self, settings: TrainingSettings) -> Literal["adapter", "full"]:
        """`adapter` or `full`: what a training makes of it."""
        merged = self.adapter is not None and settings.student_adapter == "merge"
        return "adapter" if settings.lora and not merged else "full"

    def trouble(self, settings: TrainingSettings) -> str | None:
        """Why it cannot be trained with these settings; None when it can."""
        if self.adapter is None or settings.lora is None or settings.student_adapter == "merge":
            return None
        has = json.loads((self.adapter / "adapter_config.json").read_text())
        names = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
        for ours in sorted(settings.lora.model_fields_set & names.keys()):
            wanted, given = getattr(settings.lora, ours), has.get(names[ours])
            if wanted != given:
                return (
                    f"the student is an adapter with {ours} {given:g}, which is trained on, and lora.{ours} says {wanted:g}: "
                    "leave it out, or say student_adapter: merge"
                )
        return None


def load(student: Student, settings: TrainingSettings) -> tuple[Any, Any]:
    """The model to be trained, and the configuration of an adapter that is still to be put on it (or None).

    An adapter that is trained on is part of the model (a trainable PeftModel); one that is merged is in its weights.
    """
    model = _full(student.folder)
    if student.adapter is None:
        return model, _peft(settings.lora) if settings.lora else None
    from peft import PeftModel

    if settings.lora and settings.student_adapter == "continue":
        return PeftModel.from_pretrained(model, student.adapter, is_trainable=True), None
    # Weights under an adapter are frozen, and stay so when it is merged.
    merged = PeftModel.from_pretrained(model, student.adapter).merge_and_unload().requires_grad_(True)
    return merged, _peft(settings.lora) if settings.lora else None


def _full(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _peft(lora: Lora) -> Any:
    from peft import LoraConfig

    given = lora.config | {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    return LoraConfig(**given, target_modules=lora.target_modules, task_type="CAUSAL_LM")


def save(model: Any, tokenizer: Any, folder: Path, student: Student, settings: TrainingSettings) -> None:
    """Write what was trained: an adapter, or full weights with the tokenizer. The files are the same in every process."""
    from peft import PeftModel

    if student.results_in(settings) == "adapter":
        # Beside the one that is trained, TRL keeps a copy of an adapter as reference.
        model.save_pretrained(folder, selected_adapters=["default"])
        _tidy(folder, student.name)
        return
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tidy(folder: Path, base_model: str) -> None:
    """No local path, no set in random order, no model card."""
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = base_model
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
