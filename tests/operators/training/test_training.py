"""Training without pipelines: the reference is the initial model, interrupted training resumes unchanged, rows are counted."""

from __future__ import annotations

import inspect
import json
import math
import multiprocessing
import os
import re
import signal
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from operators.training import config_fields
from operators.training.exposure import ROW
from operators.training.launch import launch
from operators.training.loop import InvariantError, Training, check_first_loss
from operators.training.settings import DPO_LOSSES, DPOSettings, KTOSettings, SFTSettings, TrainingSettings
from operators.training.students import Student

LORA = {"r": 4, "alpha": 8}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def rows(kind: str, count: int = 6) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        row: dict[str, Any] = {ROW: number, "prompt": [turn("user", f"q{number}")]}
        if kind == "dpo":
            row |= {"chosen": [turn("assistant", "yes")], "rejected": [turn("assistant", "no no")]}
        else:
            row |= {"completion": [turn("assistant", "yes" if number % 2 else "no no")]}
        made.append(row | ({"label": bool(number % 2)} if kind == "kto" else {}))
    return made


def training(kind: Any, model: Path, folder: Path, adapter: Path | None = None, **given: Any) -> Training:
    settings: type[TrainingSettings] = {"sft": SFTSettings, "dpo": DPOSettings, "kto": KTOSettings}[kind]
    made = settings.model_validate(
        {"batch_size": 2, "max_length": 64, "learning_rate": 0.01, "epochs": 2, "lora": LORA, "warmup_ratio": 0, **given}
    )
    return Training(kind, made, Student(model, adapter, "tiny"), rows(kind), 7, folder.absolute())


def quietly(step: int, total: int, loss: float) -> None:
    """Ignore progress."""


def logged(done: Training, metric: str = "loss") -> list[float]:
    return [value for name, _, value in json.loads(done.history.read_text())["logged"] if name == metric]


def seen(done: Training) -> dict[int, int]:
    counts: dict[int, int] = {}
    for rank in range(done.settings.devices):
        for row, times in json.loads(done.seen(rank).read_text()):
            counts[row] = counts.get(row, 0) + times
    return counts


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """An adapter that answers differently from its base."""
    done = training("sft", tiny_model, tmp_path / "before", learning_rate=0.05)
    launch(done, quietly, {})
    return done.model


# -- the start of training --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "on_adapter"),
    [
        ({}, False),
        ({"lora": None}, False),
        ({"precompute_ref_log_probs": True}, False),
        pytest.param({"lora": None, "precompute_ref_log_probs": True}, False, marks=pytest.mark.soak),
        ({"lora": {**LORA, "dropout": 0.5}}, False),
        ({}, True),
        pytest.param({"precompute_ref_log_probs": True}, True, marks=pytest.mark.soak),
        ({"student_adapter": "merge"}, True),
        pytest.param({"student_adapter": "merge", "lora": None}, True, marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_the_first_loss_of_dpo_is_ln_2(
    settings: dict[str, Any], on_adapter: bool, tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    start = request.getfixturevalue("adapter") if on_adapter else None
    done = training("dpo", tiny_model, tmp_path / "run", start, max_steps=3, **settings)
    launch(done, quietly, {})
    losses = logged(done)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[-1] < losses[0]


def test_a_wrong_first_loss_stops_training(tiny_model: Path, tmp_path: Path) -> None:
    started = training("dpo", tiny_model, tmp_path)
    with pytest.raises(InvariantError, match=r"0\.9000 instead of ln 2"):
        check_first_loss(started, 0.9)
    check_first_loss(training("dpo", tiny_model, tmp_path, loss_type="ipo"), 25.0)


@pytest.mark.parametrize("loss", ["ipo", "robust", "hinge", ["sigmoid", "sft"]], ids=str)
def test_dpo_supports_other_losses(loss: Any, tiny_model: Path, tmp_path: Path) -> None:
    more = {"label_smoothing": 0.1} if loss == "robust" else {}
    done = training("dpo", tiny_model, tmp_path, max_steps=3, loss_type=loss, **more)
    launch(done, quietly, {})
    assert len(set(logged(done))) == 3


def test_kto_learns_from_labels(tiny_model: Path, tmp_path: Path) -> None:
    done = training("kto", tiny_model, tmp_path, epochs=3)
    launch(done, quietly, {})
    losses = logged(done)
    assert len(losses) == 9
    assert losses[-1] < losses[0]
    assert set(seen(done)) == set(range(6))


@pytest.mark.parametrize("lora", [LORA, None], ids=["adapter", "full"])
def test_the_same_rows_and_seed_give_the_same_files(lora: Any, tiny_model: Path, tmp_path: Path) -> None:
    made = [training("sft", tiny_model, tmp_path / name, lora=lora, max_steps=2) for name in ("one", "other")]
    for each in made:
        launch(each, quietly, {})
    one, other = ({path.name: path.read_bytes() for path in each.model.iterdir()} for each in made)
    assert one == other
    weights = {"adapter_config.json", "adapter_model.safetensors"} if lora else {"config.json", "model.safetensors"}
    assert weights <= one.keys()
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= one.keys()
    assert logged(made[0]) == logged(made[1])


# -- adapters -----------------------------------------------------------------------------------------------------------


def test_an_adapter_can_be_trained_further(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = training("sft", tiny_model, tmp_path / "more", adapter)
    launch(done, quietly, {})
    config = json.loads((done.model / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (4, "tiny")
    fresh = training("sft", tiny_model, tmp_path / "fresh")
    launch(fresh, quietly, {})
    assert logged(done)[0] < logged(fresh)[0]


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_training_an_adapter_further_gives_no_notes(kind: str, adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = training(kind, tiny_model, tmp_path / "further", adapter)
    launch(done, quietly, {})
    assert json.loads(done.history.read_text())["notes"] == []
    assert json.loads((done.model / "adapter_config.json").read_text())["base_model_name_or_path"] == done.student.name


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_merged_adapter_gives_full_weights_with_the_same_answers(
    lora: Any, adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    done = training("sft", tiny_model, tmp_path / "merged", adapter, lora=lora, student_adapter="merge", learning_rate=1e-12)
    launch(done, quietly, {})
    assert done.student.results_in(done.settings) == "full"
    ids = torch.tensor([[5, 6, 7, 8]])
    merged = AutoModelForCausalLM.from_pretrained(done.model, dtype=torch.float32)(ids).logits
    before = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), adapter)
    assert torch.allclose(merged, before(ids).logits, atol=1e-4)


def test_an_adapter_trained_further_keeps_its_settings(adapter: Path, tiny_model: Path) -> None:
    student = Student(tiny_model, adapter, "tiny")
    for given in ({}, {"lora": {}}, {"lora": {"r": 4}}, {"lora": {"alpha": 8, "target_modules": "all-linear"}}):
        trained = student.trained_as(SFTSettings.model_validate(given)).lora
        assert trained is not None
        assert (trained.r, trained.alpha, trained.dropout) == (4, 8, 0)


MADE_OTHERWISE = {
    "lora.r is 8": {"r": 8},
    "an adapter with r 4, which is trained further, but lora.r is 16": {"r": 16},
    "lora.alpha is 32": {"alpha": 32},
    "lora.dropout is 0.1": {"dropout": 0.1},
    "lora.target_modules is ['q_proj']": {"target_modules": ["q_proj"]},
    "lora.use_dora is True": {"use_dora": True},
}


def test_an_adapter_with_other_settings_is_refused(adapter: Path, tiny_model: Path) -> None:
    student = Student(tiny_model, adapter, "tiny")
    for why, lora in MADE_OTHERWISE.items():
        with pytest.raises(ValueError, match=re.escape(why)):
            student.trained_as(SFTSettings.model_validate({"lora": lora}))
        merged = SFTSettings.model_validate({"lora": lora, "student_adapter": "merge"})
        assert merged.lora is not None
        assert student.trained_as(merged).lora == merged.lora.complete


# -- kills ----------------------------------------------------------------------------------------------------------------


def _die(given: Training, step: int) -> None:
    def interrupt(now: int, total: int, loss: float) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)

    launch(given, interrupt, {})


def kill(given: Training, step: int) -> None:
    """Train in another process, which is killed at a step."""
    child = multiprocessing.get_context("spawn").Process(target=_die, args=(given, step))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kind", "settings", "steps"),
    [
        ("sft", {}, [4]),
        pytest.param("sft", {"lora": None}, [2, 5], marks=pytest.mark.soak),
        pytest.param("sft", {"lora": {**LORA, "dropout": 0.3}, "gradient_accumulation_steps": 2}, [2], marks=pytest.mark.soak),
        pytest.param("dpo", {}, [3], marks=pytest.mark.soak),
        pytest.param("dpo", {"lora": None}, [1, 3, 5], marks=pytest.mark.soak),
        pytest.param("dpo", {"precompute_ref_log_probs": True}, [3], marks=pytest.mark.soak),
        pytest.param("kto", {}, [4], marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_an_interrupted_training_continues_with_the_same_losses(
    kind: str, settings: dict[str, Any], steps: list[int], tiny_model: Path, tmp_path: Path
) -> None:
    undisturbed = training(kind, tiny_model, tmp_path / "undisturbed", checkpoint_steps=2, **settings)
    launch(undisturbed, quietly, {})
    killed = replace(undisturbed, folder=(tmp_path / "killed").absolute())
    for step in steps:
        kill(killed, step)
    begun: list[int] = []
    launch(killed, lambda step, total, loss: begun.append(step), {})
    assert begun[0] == (steps[-1] - 1) // 2 * 2 + 1
    assert logged(killed) == logged(undisturbed)
    assert seen(killed) == seen(undisturbed)
    weights = "adapter_model.safetensors" if killed.student.results_in(killed.settings) == "adapter" else "model.safetensors"
    assert (killed.model / weights).read_bytes() == (undisturbed.model / weights).read_bytes()


def test_an_incomplete_checkpoint_is_ignored(tiny_model: Path, tmp_path: Path) -> None:
    done = training("sft", tiny_model, tmp_path, checkpoint_steps=2)
    kill(done, 5)
    (done.folder / "checkpoint-4" / "seen-0.json").unlink()
    begun: list[int] = []
    launch(done, lambda step, total, loss: begun.append(step), {})
    assert begun[0] == 3
    assert seen(done) == dict.fromkeys(range(6), 2)


# -- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.training
def test_the_listed_fields_are_those_of_the_installed_packages() -> None:
    assert json.loads(config_fields.FILE.read_text()) == config_fields.installed()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"cutoff_len": 512}, {"max_length": 512}),
        ({"sequence_len": 512, "micro_batch_size": 4}, {"max_length": 512, "batch_size": 4}),
        ({"lora_target": "all", "lora_rank": 8}, {"lora.target_modules": "all-linear", "lora.r": 8}),
        ({"lora_target": "q_proj,v_proj"}, {"lora.target_modules": ["q_proj", "v_proj"]}),
        ({"finetuning_type": "full"}, {"lora": None}),
        ({"adapter": "lora", "lora_r": 4, "lora_target_linear": True}, {"lora.r": 4, "lora.target_modules": "all-linear"}),
        ({"optimizer": "adafactor"}, {"config": {"optim": "adafactor"}}),
        ({"adam_beta2": 0.95, "weight_decay": 0}, {"config": {"adam_beta2": 0.95, "weight_decay": 0}}),
        ({"lora": {"use_rslora": True}}, {"lora.config": {"use_rslora": True}}),
        ({"use_dora": True}, {"lora.config": {"use_dora": True}}),
        ({"config": {"per_device_train_batch_size": 4}}, {"batch_size": 4, "config": {}}),
        ({"config": {"max_length": 64}, "cutoff_len": 64, "max_length": 64}, {"max_length": 64}),
        ({"learning_rate": "1e-5", "config": {"learning_rate": 0.00001}}, {"learning_rate": 1e-5}),
        ({"lora_rank": 8, "lora": {"rank": 8, "config": {"r": 8}}}, {"lora.r": 8, "lora.config": {}}),
        ({"peft_config": {"r": 4}, "lora": {"dropout": 0.1}}, {"lora.r": 4, "lora.dropout": 0.1}),
        ({"lora_target_linear": False, "lora_target_modules": ["q_proj"]}, {"lora.target_modules": ["q_proj"]}),
        ({"adapter": "", "lora": None}, {"lora": None}),
    ],
    ids=str,
)
def test_other_trainers_names_are_accepted(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    settings = SFTSettings.model_validate(given)
    assert {place: attrgetter(place)(settings) for place in wanted} == wanted
    assert SFTSettings.model_validate(settings.model_dump(mode="json")).model_dump() == settings.model_dump()


def test_notes_explain_how_a_name_was_understood() -> None:
    notes = SFTSettings.model_validate({"cutoff_len": 512, "lora": {"rank": 4}}).notes()
    assert notes == ("cutoff_len: 512 means max_length: 512", "rank: 4 means r: 4")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"cutoff_len": 512, "max_length": 64}, "cutoff_len: 512 and max_length: 64 give the same setting two values"),
        ({"lora_rank": 16, "lora": {"r": 2}}, "lora_rank: 16 and lora.r: 2 give"),
        ({"lora_rank": 16, "lora": {"config": {"r": 2}}}, "lora_rank: 16 and lora.config.r: 2 give"),
        ({"lora": {"lora_alpha": 4, "config": {"lora_alpha": 8}}}, "lora.lora_alpha: 4 and lora.config.lora_alpha: 8"),
        ({"peft_config": {"r": 2}, "lora_r": 3}, "peft_config.r: 2 and lora_r: 3 give"),
        ({"use_dora": True, "lora": {"use_dora": False}}, "use_dora: true and lora.use_dora: false"),
        ({"config": {"adam_beta1": 0.8}, "adam_beta1": 0.9}, "config.adam_beta1: 0.8 and adam_beta1: 0.9"),
        ({"config": {"num_train_epochs": 2}, "epochs": 1}, "config.num_train_epochs: 2 and epochs: 1"),
        ({"optimizer": "adafactor", "optim": "adamw_torch"}, "optimizer: adafactor and optim: adamw_torch"),
        ({"finetuning_type": "lora", "lora": None}, "finetuning_type: lora and lora: null"),
        ({"adapter": "lora", "finetuning_type": "full"}, "adapter: lora and finetuning_type: full"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5}, "warmup_ratio: 0.1 and warmup_steps: 5 exclude each other"),
        ({"bf16": True, "fp16": True}, "exclude each other"),
        ({"lora_target_linear": True, "lora_target_modules": ["q_proj"]}, "lora_target_linear: true and lora_target_modules"),
        ({"lora_target_linear": False}, "list the layers"),
        ({"gradient_checkpointing": True, "activation_checkpointing": False}, "gradient_checkpointing: true and activation_"),
        ({"truncation_mode": "middle"}, "truncation_mode is one of keep_end, keep_start"),
        ({"optim": "adamm"}, "optim is one of adafactor"),
        ({"adam_beta2": "high"}, "adam_beta2 accepts float"),
        ({"output_dir": "here"}, "output_dir cannot be set: the engine chooses where files go"),
        ({"seed": 3}, "seed cannot be set: training uses the pipeline's `seed`"),
        ({"adapter": "qlora"}, "qlora is not supported"),
        ({"lora": None, "lora_rank": 4}, "lora_rank: 4 contradicts lora: null"),
        ({"lr_scheduler": "cosin"}, "lr_scheduler is one of constant"),
        ({"lora": {"ranks": 4}}, "Extra inputs"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_set_are_errors(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SFTSettings.model_validate(given)


def test_preference_settings_that_trl_rejects_are_errors() -> None:
    for name in ("batch_size", "micro_batch_size", "per_device_train_batch_size"):
        with pytest.raises(ValueError, match=f"{name}: 1 is too small: KTO estimates its KL term from other rows"):
            KTOSettings.model_validate({name: 1, "gradient_accumulation_steps": 8})
    assert KTOSettings.model_validate({"batch_size": 1, "loss_type": "apo_zero_unpaired"}).batch_size == 1
    with pytest.raises(ValueError, match="train_sampling_strategy: random does not work with KTO"):
        KTOSettings.model_validate({"train_sampling_strategy": "random"})
    for settings in (DPOSettings, KTOSettings):
        with pytest.raises(ValueError, match=r"loss_type is one of|Input should be 'kto'"):
            settings.model_validate({"pref_loss": "simpo"})
    with pytest.raises(ValueError, match=r"pref_beta: 0\.2 and config\.beta: 0\.3"):
        DPOSettings.model_validate({"pref_beta": 0.2, "config": {"beta": 0.3}})


@pytest.mark.training  # it imports trl
def test_the_dpo_losses_are_those_of_trl() -> None:
    from trl import DPOTrainer

    source = inspect.getsource(DPOTrainer)
    assert set(re.findall(r'loss_type == "(\w+)"', source)) == set(DPO_LOSSES)
