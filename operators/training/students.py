"""Loads the student for a trainer, with or without an adapter, and saves the result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from operators.training import config_fields
from operators.training.settings import Lora, TrainingSettings


@dataclass(frozen=True)
class Student:
    """Where a student's weights are.

    Attributes:
        folder: the folder of its full weights and tokenizer.
        adapter: the folder of an adapter for these weights, or None.
        name: the name of the full weights in the pipeline.
    """

    folder: Path
    adapter: Path | None
    name: str

    def results_in(self, settings: TrainingSettings) -> Literal["adapter", "full"]:
        """The format of the trained model."""
        merged = self.adapter is not None and settings.student_adapter == "merge"
        return "adapter" if settings.lora and not merged else "full"

    def trained_as(self, settings: TrainingSettings) -> TrainingSettings:
        """The settings, completed with those of the adapter to train: a new one, or the student's.

        Raises:
            ValueError: the settings contradict the student's adapter; the text says what to do.
        """
        if settings.lora is None:
            return settings
        lora = settings.lora.complete
        if self.adapter is not None and settings.student_adapter == "continue":
            lora = _read(self.adapter, settings.lora.target_modules)
            if why := settings.lora.disagreement(lora):
                raise ValueError(why)
        return settings.model_copy(update={"lora": lora})


def _read(adapter: Path, all_linear: Any) -> Lora:
    """The settings of an existing adapter, without PEFT's defaults.

    Args:
        adapter: the folder of the adapter.
        all_linear: the requested layers; `all-linear` is taken at its word, because an adapter records only layer names.
    """
    from peft import LoraConfig

    found = json.loads((adapter / "adapter_config.json").read_text())
    usual = LoraConfig().to_dict()
    own = {"r", "lora_alpha", "lora_dropout", "target_modules"}
    known = config_fields.fields("LoraConfig").keys() - own - Lora.owned.keys()
    config = {name: value for name, value in found.items() if name in known and value != usual.get(name)}
    return Lora(
        r=found["r"],
        alpha=found["lora_alpha"],
        dropout=found["lora_dropout"],
        target_modules=all_linear if all_linear == "all-linear" else found["target_modules"],
        config=config,
    )


def load(student: Student, settings: TrainingSettings) -> tuple[Any, Any]:
    """The model to train, and the configuration of a new adapter for it (or None).

    An adapter that is trained further is part of the model (a trainable PeftModel); a merged one is part of its weights.
    """
    model = _full(student.folder)
    if student.adapter is None:
        return model, _peft(settings.lora) if settings.lora else None
    from peft import PeftModel

    if settings.lora and settings.student_adapter == "continue":
        model = PeftModel.from_pretrained(model, student.adapter, is_trainable=True)
        # It has the pipeline's name for the full weights. PEFT takes it for a folder, or asks the hub, whenever it saves.
        model.peft_config["default"].base_model_name_or_path = str(student.folder)
        return model, None
    # The weights under an adapter are frozen, and stay so after merging.
    merged = PeftModel.from_pretrained(model, student.adapter).merge_and_unload().requires_grad_(True)
    return merged, _peft(settings.lora) if settings.lora else None


def _full(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _peft(lora: Lora) -> Any:
    from peft import LoraConfig

    lora = lora.complete
    given = lora.config | {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    return LoraConfig(**given, target_modules=lora.target_modules, task_type="CAUSAL_LM")


def save(model: Any, tokenizer: Any, folder: Path, student: Student, settings: TrainingSettings) -> None:
    """Write the trained adapter or full weights, and the tokenizer. The same result gives the same files in every process."""
    from peft import PeftModel

    if student.results_in(settings) == "adapter":
        # TRL also keeps a copy of the adapter as its reference.
        model.save_pretrained(folder, selected_adapters=["default"])
        _tidy(folder, student.name)
        tokenizer.save_pretrained(folder)
        return
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tidy(folder: Path, base_model: str) -> None:
    """Remove local paths, the random order of sets, and the model card."""
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = base_model
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
