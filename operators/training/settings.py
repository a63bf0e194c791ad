"""What can be set of a training: our parameters, every field of TRL's and PEFT's configurations, other trainers' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from operators.training import library

Translation = Mapping[str, str]
"""Another name -> our name, or `lora.NAME` for a part of the adapter's settings."""


class Accepting(BaseModel):
    """Settings that take the fields of a library's configuration beside their own, and other names for both.

    What is no field of our own stands in `config` afterwards, under the library's name.

    Attributes:
        configures: the configuration.
        aliases: other names of our fields.
        owned: fields of the configuration that cannot be set, and why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    configures: ClassVar[library.Config]
    aliases: ClassVar[Translation]
    owned: ClassVar[Mapping[str, str]]
    _notes: list[str] = PrivateAttr(default_factory=list)

    config: dict[str, Any] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """How names that are not ours were read, for people."""
        inner = [
            note
            for name in type(self).model_fields
            if isinstance(part := getattr(self, name), Accepting)
            for note in part.notes
        ]
        return (*self._notes, *inner)

    @classmethod
    def names(cls) -> list[str]:
        """Every name that can be given."""
        return [*cls.model_fields, *cls.aliases, *(name for name in library.fields(cls.configures) if name not in cls.owned)]

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        """With the names of the library and of other trainers, so that editors know them."""
        schema: dict[str, Any] = handler.resolve_ref_schema(handler(core))
        own = dict(schema["properties"])
        of_library = {name: each.schema for name, each in library.fields(cls.configures).items() if name not in cls.owned}
        others = {name: {"description": f"{name} is {place}"} for name, place in cls.aliases.items()}
        schema["properties"] = {**of_library, **others, **own}
        return schema

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        if not isinstance(given, Mapping):
            return handler(given)
        notes: list[str] = []
        made = handler(cls._resolved(dict(given), notes))
        made._notes = notes
        return made

    @classmethod
    def _resolved(cls, given: dict[str, Any], notes: list[str]) -> dict[str, Any]:
        """The settings under our names and those of the library."""
        settings, config = {}, dict(given.pop("config", None) or {})
        told: dict[str, str] = {}
        for name, value in given.items():
            if name in cls.model_fields:
                places = {name: value}
            elif name in cls.aliases:
                places = cls.translated(name, value)
                notes.append(f"{name}: {_short(value)} is " + ", ".join(f"{k}: {_short(v)}" for k, v in places.items()))
            elif name in library.fields(cls.configures) or name in cls.owned:
                config[name] = value
                continue
            else:
                settings[name] = value  # pydantic says that there is no such field
                continue
            for place, each in places.items():
                if place in told:
                    raise ValueError(f"{told[place]} and {name} are the same setting, and both are given")
                told[place] = name
                if place.partition(".")[0] in cls.model_fields:
                    _put(settings, place, each)
                else:
                    config[place] = each
        if config:
            settings["config"] = cls._fitting(config)
        return settings

    @classmethod
    def translated(cls, name: str, value: Any) -> dict[str, Any]:
        """What another name stands for: our names (with dots for parts) and their values."""
        return {cls.aliases[name]: value}

    @classmethod
    def _fitting(cls, config: dict[str, Any]) -> dict[str, Any]:
        known = library.fields(cls.configures)
        for name, value in config.items():
            if name in cls.owned:
                raise ValueError(f"{name} cannot be set: {cls.owned[name]}")
            if name not in known:
                raise ValueError(f"{cls.configures} has no field {name!r}")
            if trouble := known[name].trouble(value):
                raise ValueError(f"{name} {trouble}")
        return config


def _put(settings: dict[str, Any], place: str, value: Any) -> None:
    """Set a value at a place such as `lora.r`."""
    outer, _, inner = place.partition(".")
    if not inner:
        settings[outer] = value
    elif settings.get(outer, {}) is None:
        raise ValueError(f"{place} is given, and {outer} is null")
    else:
        settings[outer] = {**settings.get(outer, {}), inner: value}


def _short(value: Any) -> str:
    return "null" if value is None else str(value)


class Lora(Accepting):
    """A low-rank adapter (Hu et al. 2021); takes every other field of PEFT's LoraConfig, too.

    Args:
        r: its rank.
        alpha: its scale; updates are multiplied by alpha / r.
        dropout: on its input while training.
        target_modules: names of the layers it sits on (or a pattern); `all-linear` is every linear layer but the head.
        config: fields of LoraConfig.
    """

    configures: ClassVar[library.Config] = "LoraConfig"
    aliases: ClassVar[Translation] = {
        "rank": "r",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
    }
    owned: ClassVar[Mapping[str, str]] = {
        "task_type": "students are causal language models",
        "peft_type": "it is LORA",
        "inference_mode": "it is trained",
        "base_model_name_or_path": "it is the student",
        "auto_mapping": "PEFT fills it in",
        "peft_version": "PEFT fills it in",
        "revision": "name the student's version in its model: entry",
    }

    r: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[str] | str = "all-linear"


_EVALUATION = "a training step does not evaluate; let a step of its own do it, on the model that this one makes"
_HUB = "models go to the registry; `engine export` writes a folder to upload"
_PLACES = "the engine decides where files lie"

OWNED: Mapping[str, str] = {
    **dict.fromkeys(("output_dir", "resume_from_checkpoint", "save_on_each_node", "local_rank"), _PLACES),
    **dict.fromkeys(("report_to", "run_name", "project", "disable_tqdm", "log_level", "log_level_replica"), "see `metrics`"),
    **dict.fromkeys(("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), "see `metrics`"),
    **dict.fromkeys(("logging_strategy", "logging_steps", "logging_first_step"), "the loss of every step is in `metrics`"),
    **dict.fromkeys(("save_strategy", "save_only_model", "enable_jit_checkpoint"), "see checkpoint_steps"),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"), _HUB),
    **dict.fromkeys(("hub_always_push", "hub_revision"), _HUB),
    **dict.fromkeys(("eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size", "eval_on_start"), _EVALUATION),
    **dict.fromkeys(("prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object"), _EVALUATION),
    **dict.fromkeys(("eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "eval_packing"), _EVALUATION),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval", "do_eval", "do_predict", "do_train"), _EVALUATION),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _EVALUATION),
    **dict.fromkeys(("seed", "data_seed"), "it is the pipeline's `seed`"),
    **dict.fromkeys(("remove_unused_columns", "packing", "packing_strategy", "padding_free"), "rows are counted one by one"),
    **dict.fromkeys(("model_init_kwargs", "chat_template_path", "pad_token"), "they are the student's"),
    "use_cpu": "GPUs are used where there are any",
    "ignore_data_skip": "a training that goes on must not see rows again",
    "dataset_text_field": "rows are prompts and completions",
}

ALIASES: Translation = {
    # of transformers and TRL
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "lr_scheduler_type": "lr_scheduler",
    "save_steps": "checkpoint_steps",
    "peft_config": "lora",
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


class TrainingSettings(Accepting):
    """What every training takes.

    Args:
        epochs: passes over the rows.
        max_steps: stop after so many optimizer steps, whatever `epochs` says.
        learning_rate: at the end of the warm-up.
        batch_size: rows per device and step.
        gradient_accumulation_steps: batches per optimizer step.
        max_length: tokens of prompt and completion; the rest is cut off.
        warmup_ratio: share of the steps in which the rate rises.
        lr_scheduler: how the rate falls after the warm-up, by its name in transformers.
        lora: the adapter; null trains all weights.
        student_adapter: of a student that is an adapter itself, `continue` trains that on, `merge` puts it into the weights
            first (the result is full weights then, as it is with `lora: null`).
        checkpoint_steps: after so many steps what a killed training goes on from is saved.
        devices: GPUs (or, without any, processes) that train together; each takes `batch_size` rows a step.
        config: fields of TRL's configuration; they may also stand beside the others.
    """

    aliases: ClassVar[Translation] = ALIASES
    owned: ClassVar[Mapping[str, str]] = OWNED

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

    @model_validator(mode="after")
    def _known_scheduler(self) -> TrainingSettings:
        if trouble := library.fields(type(self).configures)["lr_scheduler_type"].trouble(self.lr_scheduler):
            raise ValueError(f"lr_scheduler {trouble}")
        return self

    @classmethod
    def translated(cls, name: str, value: Any) -> dict[str, Any]:
        """See Accepting; here also values have other names (`lora_target: all`)."""
        place = cls.aliases[name]
        if place == "lora" and name != "peft_config":
            if value not in ("lora", "full", "none", None):
                raise ValueError(f"{name}: {value} is not supported; there are lora and full")
            return {} if value == "lora" else {"lora": None}
        if place == "lora.target_modules":
            if name == "lora_target_linear":
                return {place: "all-linear"} if value else {}
            if isinstance(value, str) and value != "all-linear":
                value = "all-linear" if value == "all" else [each.strip() for each in value.split(",")]
        return {place: value}

    def steps(self, rows: int) -> int:
        """Optimizer steps over so many rows."""
        together = self.batch_size * self.gradient_accumulation_steps * self.devices
        return self.max_steps or max(1, round(self.epochs * rows / together))


class SFTSettings(TrainingSettings):
    """What train_sft takes."""

    configures: ClassVar[library.Config] = "SFTConfig"


class PreferenceSettings(TrainingSettings):
    """What trainings on preferences take beside that.

    Args:
        beta: how much leaving the reference model costs.
        loss_type: by its name in TRL.
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


class DPOSettings(PreferenceSettings):
    """What train_dpo takes."""

    configures: ClassVar[library.Config] = "DPOConfig"

    loss_type: list[str] | str = "sigmoid"


class KTOSettings(PreferenceSettings):
    """What train_kto takes.

    Args:
        desirable_weight, undesirable_weight: of the losses of completions that are wanted and of the others.
    """

    configures: ClassVar[library.Config] = "KTOConfig"

    desirable_weight: Annotated[float, Field(gt=0)] = 1.0
    undesirable_weight: Annotated[float, Field(gt=0)] = 1.0
    loss_type: str = "kto"
