"""The settings for training: our own, every field of TRL's and PEFT's configurations, and the names of other trainers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from engine.operator import Model, Params
from operators.training import config_fields
from operators.training.aliased_settings import AliasedSettings, Given, Place, Translation, refuse


class Lora(AliasedSettings):
    """A low-rank adapter (Hu et al. 2021); every other field of PEFT's LoraConfig is also accepted.

    Args:
        r: the rank (default 16).
        alpha: the scale (default 32); updates are multiplied by alpha / r.
        dropout: dropout on the adapter's input during training (default 0).
        target_modules: the names of the layers to adapt, or a pattern; the default, `all-linear`, is every linear layer but
            the head.
        config: fields of LoraConfig.

    An existing adapter keeps its settings when it is trained further; omit these, or repeat them unchanged.
    """

    configures: ClassVar[config_fields.Config] = "LoraConfig"
    aliases: ClassVar[Translation] = {
        "rank": "r",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
    }
    owned: ClassVar[Mapping[str, str]] = {
        "task_type": "students are always causal language models",
        "peft_type": "it is always LORA",
        "inference_mode": "the adapter is being trained",
        "base_model_name_or_path": "the base is the student",
        "auto_mapping": "PEFT fills it in",
        "peft_version": "PEFT fills it in",
        "revision": "choose the student's version in its `model:` entry",
    }

    r: Annotated[int, Field(ge=1)] | None = None
    alpha: Annotated[float, Field(gt=0)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    target_modules: list[str] | str | None = None

    @property
    def complete(self) -> Lora:
        """The settings, completed with the defaults of a new adapter."""
        given = {name: value for name in _NEW if (value := getattr(self, name)) is not None}
        return self.model_copy(update={**_NEW, **given})

    def disagreement(self, adapter: Lora) -> str | None:
        """Why an adapter cannot be trained further with these settings; None if it can."""
        own = {name: (getattr(self, name), getattr(adapter, name)) for name in _NEW}
        rest = {name: (value, adapter.config.get(name)) for name, value in sorted(self.config.items())}
        for name, (wanted, has) in (own | rest).items():
            if not _agrees(wanted, has):
                return (
                    f"the student is an adapter with {name} {_shown(has)}, which is trained further, but lora.{name} is "
                    f"{_shown(wanted)}; remove lora.{name}, or set student_adapter: merge"
                )
        return None


def _agrees(wanted: Any, has: Any) -> bool:
    if isinstance(wanted, list) and isinstance(has, list):
        return sorted(map(str, wanted)) == sorted(map(str, has))
    return wanted is None or wanted == has or (not wanted and not has)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


_NEW: Mapping[str, Any] = {"r": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}
"""The defaults for a new adapter."""


_EVALUATION = "training does not evaluate; add a step that evaluates the trained model"
_HUB = "models go to the registry; `engine export` writes a folder to upload"
_PLACES = "the engine chooses where files go"
_METRICS = "the trainer's measures are in the view `metrics`"

OWNED: Mapping[str, str] = {
    "trust_remote_code": "code that comes with a model or a dataset is never run",
    **dict.fromkeys(("output_dir", "resume_from_checkpoint", "save_on_each_node", "local_rank"), _PLACES),
    **dict.fromkeys(("report_to", "run_name", "project", "disable_tqdm", "log_level", "log_level_replica"), _METRICS),
    **dict.fromkeys(("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), _METRICS),
    **dict.fromkeys(
        ("logging_strategy", "logging_steps", "logging_first_step"), "the view `metrics` has the loss of every step"
    ),
    **dict.fromkeys(("save_strategy", "save_only_model", "enable_jit_checkpoint"), "set checkpoint_steps instead"),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"), _HUB),
    **dict.fromkeys(("hub_always_push", "hub_revision"), _HUB),
    **dict.fromkeys(("eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size", "eval_on_start"), _EVALUATION),
    **dict.fromkeys(("prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object"), _EVALUATION),
    **dict.fromkeys(("eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "eval_packing"), _EVALUATION),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval", "do_eval", "do_predict", "do_train"), _EVALUATION),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _EVALUATION),
    **dict.fromkeys(("seed", "data_seed"), "training uses the pipeline's `seed`"),
    **dict.fromkeys(
        ("remove_unused_columns", "packing", "packing_strategy", "padding_free"), "the engine counts how often each row is seen"
    ),
    **dict.fromkeys(("model_init_kwargs", "chat_template_path", "pad_token"), "the student determines it"),
    "use_cpu": "GPUs are used if there are any",
    "ignore_data_skip": "a resumed training must not repeat rows",
    "dataset_text_field": "rows consist of prompts and completions",
}

ALIASES: Translation = {
    # of transformers and TRL
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "lr_scheduler_type": "lr_scheduler",
    "save_steps": "checkpoint_steps",
    "peft_config": "lora",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    # of LLaMA-Factory
    "cutoff_len": "max_length",
    "finetuning_type": "lora",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target": "lora.target_modules",
    "additional_target": "lora.modules_to_save",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    # of axolotl
    "adapter": "lora",
    "sequence_len": "max_length",
    "micro_batch_size": "batch_size",
    "num_epochs": "epochs",
    "optimizer": "optim",
    "lora_r": "lora.r",
    "lora_target_modules": "lora.target_modules",
    "lora_target_linear": "lora.target_modules",
    "lora_modules_to_save": "lora.modules_to_save",
    "peft_use_rslora": "lora.use_rslora",
    "peft_use_dora": "lora.use_dora",
}


_EXCLUSIVE = (("warmup_ratio", "warmup_steps"), ("bf16", "fp16"))
"""Pairs of settings of which the trainer uses only one."""


class TrainingSettings(AliasedSettings, Params):
    """Settings of all training operators.

    Args:
        epochs: passes over the rows.
        max_steps: the number of optimizer steps; overrides `epochs`.
        learning_rate: the highest learning rate, reached at the end of the warm-up.
        batch_size: rows per device and batch.
        gradient_accumulation_steps: batches per optimizer step.
        max_length: the maximum number of tokens in a prompt and its completion; the rest is cut off.
        warmup_ratio: the share of steps in which the learning rate rises.
        lr_scheduler: how the learning rate falls after the warm-up, by its name in transformers.
        lora: the adapter; null trains all weights.
        student_adapter: for a student that is an adapter: `continue` trains the adapter further; `merge` merges it into the
            weights first (the result is then full weights, as with `lora: null`).
        checkpoint_steps: the number of steps between checkpoints, from which an interrupted training continues.
        devices: GPUs (or, if there are none, processes) that train together; each takes `batch_size` rows at a time.
        config: fields of TRL's configuration; they may also be given next to the other settings.
    """

    aliases: ClassVar[Translation] = ALIASES
    owned: ClassVar[Mapping[str, str]] = OWNED
    parts: ClassVar[Mapping[str, type[AliasedSettings]]] = {"lora": Lora}

    epochs: Annotated[float, Field(gt=0)] = 3
    max_steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    batch_size: Annotated[int, Field(ge=1)] = 8
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    max_length: Annotated[int, Field(ge=8)] = 1024
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    lr_scheduler: str = "cosine"
    lora: Lora | None = Lora()
    student_adapter: Literal["continue", "merge"] = "continue"
    checkpoint_steps: Annotated[int, Field(ge=1)] = 200
    devices: Annotated[int, Field(ge=1)] = 1

    @classmethod
    def _placed(cls, given: Mapping[str, Any], path: Place, notes: list[str]) -> Iterator[Given]:
        if given.get("lora_target_linear") is False and given.keys() & {"lora_target", "lora_target_modules"}:
            given = {name: value for name, value in given.items() if name != "lora_target_linear"}
        return super()._placed(given, path, notes)

    @classmethod
    def translated(cls, name: str, value: Any) -> dict[str, Any]:
        """See AliasedSettings; some values also have other names (`lora_target: all`)."""
        place = cls.aliases[name]
        if place == "lora" and name != "peft_config":
            if value not in ("lora", "full", "none", "", None):
                raise ValueError(f"{name}: {value} is not supported; choose lora or full")
            return {"lora": {} if value == "lora" else None}
        if place == "lora.target_modules":
            if name == "lora_target_linear":
                if not value:
                    raise ValueError(f"{name}: false is not supported; list the layers in lora_target_modules")
                return {place: "all-linear"}
            if isinstance(value, str) and value != "all-linear":
                value = "all-linear" if value == "all" else [each.strip() for each in value.split(",")]
        return {place: value}

    def examine(self, placed: Mapping[Place, Given]) -> None:
        """See AliasedSettings."""
        if trouble := config_fields.fields(type(self).configures)["lr_scheduler_type"].trouble(self.lr_scheduler):
            refuse(f"lr_scheduler {trouble}", placed[("lr_scheduler",)].path, self.lr_scheduler)
        by_name = {place[-1]: given for place, given in placed.items() if place[0] != "lora"}
        for names in _EXCLUSIVE:
            one, other = (by_name.get(name) for name in names)
            if one and other and one.value and other.value:
                refuse(f"{one.shown} and {other.shown} exclude each other; remove one", other.path, other.value)

    def device_count(self) -> int:
        """The number of devices that train together."""
        return self.devices

    def notes(self) -> tuple[str, ...]:
        """See AliasedSettings."""
        if self.max_steps and "epochs" in self.model_fields_set:
            return (*super().notes(), f"max_steps: {self.max_steps} overrides epochs: {self.epochs:g}")
        return super().notes()

    def expected_model(self, models: Mapping[str, Model]) -> Model | None:
        """The result of training the model in the role `student`; None if unknown.

        Raises:
            ValueError: the student is an adapter that does not fit the settings; the text says what to do.
        """
        student, lora = models.get("student"), self.lora
        if student is None:
            return None
        if lora is not None and student.format == "adapter" and self.student_adapter == "continue":
            before = _recorded(student)
            if before is None:
                return None
            if why := lora.disagreement(before):
                raise ValueError(why)
            lora = before
        merged = student.format == "adapter" and self.student_adapter == "merge"
        config = json.dumps({"lora": lora.complete.model_dump(mode="json") if lora else None})
        return Model(base_model=student.base_model, format="adapter" if lora and not merged else "full", config=config)

    def steps(self, rows: int) -> int:
        """The number of optimizer steps for `rows` rows."""
        rows_per_step = self.batch_size * self.gradient_accumulation_steps * self.devices
        return self.max_steps or max(1, round(self.epochs * rows / rows_per_step))


def _recorded(model: Model) -> Lora | None:
    """The adapter settings that a model in the registry was trained with; None if another tool made it."""
    try:
        return Lora.model_validate(json.loads(model.config)["lora"]).complete
    except (ValueError, TypeError, KeyError):
        return None


class SFTSettings(TrainingSettings):
    """Settings of train_sft."""

    configures: ClassVar[config_fields.Config] = "SFTConfig"


class PreferenceSettings(TrainingSettings):
    """Additional settings of training on preferences.

    Args:
        beta: the weight of the penalty for moving away from the reference model.
        loss_type: the loss, by its name in TRL.
    """

    aliases: ClassVar[Translation] = {
        **ALIASES,
        "pref_beta": "beta",
        "rl_beta": "beta",
        "dpo_beta": "beta",
        "pref_loss": "loss_type",
    }

    epochs: Annotated[float, Field(gt=0)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    beta: Annotated[float, Field(gt=0)] = 0.1


DPO_LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
"""TRL's losses, which its configuration does not list; a test compares them with TRL."""


class DPOSettings(PreferenceSettings):
    """Settings of train_dpo."""

    configures: ClassVar[config_fields.Config] = "DPOConfig"

    loss_type: list[str] | str = "sigmoid"

    def examine(self, placed: Mapping[Place, Given]) -> None:
        """See AliasedSettings."""
        super().examine(placed)
        for loss in [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type:
            if loss not in DPO_LOSSES:
                refuse(f"loss_type is one of {', '.join(DPO_LOSSES)} (given: {loss!r})", placed[("loss_type",)].path, loss)


class KTOSettings(PreferenceSettings):
    """Settings of train_kto.

    Args:
        desirable_weight, undesirable_weight: the weights of the losses on desirable and undesirable completions.
    """

    configures: ClassVar[config_fields.Config] = "KTOConfig"
    aliases: ClassVar[Translation] = {
        **PreferenceSettings.aliases,
        "kto_chosen_weight": "desirable_weight",
        "kto_rejected_weight": "undesirable_weight",
        "kto_desirable_weight": "desirable_weight",
        "kto_undesirable_weight": "undesirable_weight",
    }

    desirable_weight: Annotated[float, Field(gt=0)] = 1.0
    undesirable_weight: Annotated[float, Field(gt=0)] = 1.0
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"

    @property
    def compares(self) -> bool:
        """Whether the loss has a KL term, which is estimated by comparing rows with their neighbours."""
        return self.loss_type != "apo_zero_unpaired"

    def examine(self, placed: Mapping[Place, Given]) -> None:
        """See AliasedSettings. The KL term of a row is estimated from its neighbours in the same batch on the same device."""
        super().examine(placed)
        if not self.compares:
            return
        if self.batch_size == 1:
            given = placed[("batch_size",)]
            why = (
                f"{given.shown} is too small: KTO estimates its KL term from other rows of a batch. Set it to 2 or more "
                "(gradient_accumulation_steps and devices do not help), or set loss_type: apo_zero_unpaired"
            )
            refuse(why, given.path, given.value)
        order = placed.get(("config", "train_sampling_strategy"))
        if order and order.value != "sequential":
            why = f"{order.shown} does not work with KTO, which compares a row with its neighbours in a fixed order; remove it"
            refuse(why, order.path, order.value)
