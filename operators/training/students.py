"""The student as a trainer takes it: full weights, or full weights with an adapter that is trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.operator import Model
from operators.training import library
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

    def trained_as(self, settings: TrainingSettings) -> TrainingSettings:
        """The settings with those of the adapter that is trained: a new one, or the student's own.

        Raises:
            ValueError: the settings say something else about the adapter than what it is; says what to do.
        """
        if settings.lora is None:
            return settings
        lora = settings.lora.complete
        if self.adapter is not None and settings.student_adapter == "continue":
            lora = _read(self.adapter, settings.lora.target_modules)
            if why := settings.lora.disagreement(lora):
                raise ValueError(why)
        return settings.model_copy(update={"lora": lora})


def foretold(settings: TrainingSettings, models: Mapping[str, Model]) -> Model | None:
    """What a training makes of the model in the role `student`, as far as can be said before; None when it cannot.

    Raises:
        ValueError: the student is an adapter that the settings do not fit; says what to do.
    """
    student = models.get("student")
    lora = settings.lora
    if student is None:
        return None
    if lora is not None and student.format == "adapter" and settings.student_adapter == "continue":
        before = _recorded(student)
        if before is None:
            return None
        if why := lora.disagreement(before):
            raise ValueError(why)
        lora = before
    merged = student.format == "adapter" and settings.student_adapter == "merge"
    config = json.dumps({"lora": lora.complete.model_dump(mode="json") if lora else None})
    return Model(base_model=student.base_model, format="adapter" if lora and not merged else "full", config=config)


def _recorded(model: Model) -> Lora | None:
    """How a model of the registry was trained; None when another tool made it."""
    try:
        return Lora.model_validate(json.loads(model.config)["lora"]).complete
    except (ValueError, TypeError, KeyError):
        return None


def _read(adapter: Path, all_linear: Any) -> Lora:
    """An adapter's settings, without PEFT's defaults.

    Args:
        adapter: its folder.
        all_linear: `all-linear` is taken for the layers that the adapter sits on: their names are all that it knows.
    """
    from peft import LoraConfig

    found = json.loads((adapter / "adapter_config.json").read_text())
    usual = LoraConfig().to_dict()
    own = {"r", "lora_alpha", "lora_dropout", "target_modules"}
    known = library.fields("LoraConfig").keys() - own - Lora.owned.keys()
    config = {name: value for name, value in found.items() if name in known and value != usual.get(name)}
    return Lora(
        r=found["r"],
        alpha=found["lora_alpha"],
        dropout=found["lora_dropout"],
        target_modules=all_linear if all_linear == "all-linear" else found["target_modules"],
        config=config,
    )


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

    lora = lora.complete
    given = lora.config | {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    return LoraConfig(**given, target_modules=lora.target_modules, task_type="CAUSAL_LM")


def save(model: Any, tokenizer: Any, folder: Path, student: Student, settings: TrainingSettings) -> None:
    """Write what was trained, an adapter or full weights, and the tokenizer. The files are the same in every process."""
    from peft import PeftModel

    if student.results_in(settings) == "adapter":
        # Beside the one that is trained, TRL keeps a copy of an adapter as reference.
        model.save_pretrained(folder, selected_adapters=["default"])
        _tidy(folder, student.name)
        tokenizer.save_pretrained(folder)
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
