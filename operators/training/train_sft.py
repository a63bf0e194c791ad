"""Supervised fine-tuning with TRL, of all weights or of a LoRA adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.operator import Context, Model, Reject, Table, operator
from engine.quiet import quiet_transformers
from operators.records import SFTExample
from operators.training.exposure import ROW, counting, with_rows


class Lora(BaseModel):
    """A low-rank adapter (Hu et al. 2021).

    Args:
        r: its rank.
        alpha: its scale; updates are multiplied by alpha / r.
        dropout: on its input while training.
        target_modules: names of the layers it sits on; `all-linear` is every linear layer but the head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


@operator(outputs={"model": Model}, models=["student"], calls=lambda params: {})
def train_sft(
    examples: Table[SFTExample],
    ctx: Context,
    *,
    epochs: Annotated[float, Field(gt=0)] = 3,
    max_steps: Annotated[int, Field(ge=1)] | None = None,
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4,
    batch_size: Annotated[int, Field(ge=1)] = 8,
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1,
    max_length: Annotated[int, Field(ge=8)] = 1024,
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03,
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine",
    lora: Lora | None = Lora(),  # noqa: B008  (frozen)
) -> Iterator[Model]:
    """Fine-tune the student on examples; the loss is on the completions only.

    Which rows the trainer went through, and how often, stands in the view `training_exposure`.

    Metrics: `loss` and `learning_rate` by step, `rows`, `rows_truncated` and `rows_dropped` (longer than max_length with
    nothing of the completion left), `trainable_parameters`.

    Source: the settings of PersonaMath (arXiv 2410.01504) are epochs 3, cosine, warm-up 0.03; its learning rate of 2e-5 is
    for all weights (`lora: null`), 2e-4 is usual for LoRA.

    Args:
        epochs: passes over the examples.
        max_steps: stop after so many optimizer steps, whatever `epochs` says.
        learning_rate: at the end of the warm-up.
        batch_size: examples per device and step.
        gradient_accumulation_steps: batches per optimizer step.
        max_length: tokens of prompt and completion; the rest is cut off.
        warmup_ratio: share of the steps in which the rate rises.
        lr_scheduler: how the rate falls after the warm-up.
        lora: the adapter; null trains all weights.
    """
    if not len(examples):
        raise Reject("there is nothing to train on: 0 examples came in")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    quiet_transformers()
    student = ctx.models["student"]
    set_seed(ctx.seed)
    tokenizer = AutoTokenizer.from_pretrained(student.path)
    rows = _fitting_rows(examples, tokenizer, max_length, ctx)
    cuda = torch.cuda.is_available()
    bf16 = cuda and torch.cuda.is_bf16_supported()
    model = AutoModelForCausalLM.from_pretrained(student.path, dtype=torch.float32)
    total_steps = max_steps or max(1, round(epochs * len(rows) / (batch_size * gradient_accumulation_steps)))
    config = SFTConfig(
        output_dir=str(ctx.scratch / "trainer"),
        num_train_epochs=epochs,
        max_steps=max_steps or -1,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_length=max_length,
        warmup_steps=int(warmup_ratio * total_steps),
        lr_scheduler_type=lr_scheduler,
        completion_only_loss=True,
        bf16=bf16,
        gradient_checkpointing=cuda,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=ctx.seed,
    )
    trainer = counting(SFTTrainer, lambda row: ctx.seen(examples.ref(row)))(
        model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_peft(lora) if lora else None,
        callbacks=[_reporter(ctx)],
    )
    ctx.report("trainable_parameters", sum(p.numel() for p in trainer.model.parameters() if p.requires_grad))
    trainer.data_collator = with_rows(trainer.data_collator)
    trainer.train()
    folder = ctx.scratch / "model"
    trainer.model.save_pretrained(folder)
    if lora:
        _tidy_adapter(folder, student.name)
    else:
        tokenizer.save_pretrained(folder)
    settings = {
        "epochs": epochs,
        "max_steps": max_steps,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "max_length": max_length,
        "warmup_ratio": warmup_ratio,
        "lr_scheduler": lr_scheduler,
        "lora": lora.model_dump() if lora else None,
        "seed": ctx.seed,
    }
    yield Model(
        base_model=student.name,
        format="adapter" if lora else "full",
        config=json.dumps(settings, sort_keys=True),
        files=ctx.keep(folder),
    )


def _fitting_rows(examples: Table[SFTExample], tokenizer: Any, max_length: int, ctx: Context) -> list[dict[str, Any]]:
    """Rows with something to learn within max_length; TRL would drop the others without a word."""
    kept = []
    truncated = dropped = 0
    for number, example in enumerate(examples):
        row = example.model_dump() | {ROW: number}
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=True)["input_ids"]
        if len(prompt) >= max_length:
            dropped += 1
            continue
        truncated += len(whole) > max_length
        kept.append(row)
    ctx.report("rows", len(examples))
    ctx.report("rows_truncated", truncated)
    ctx.report("rows_dropped", dropped)
    if not kept:
        raise Reject(f"all {len(examples)} prompts are longer than max_length={max_length}; nothing is left to learn")
    return kept


def _peft(lora: Lora) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def _reporter(ctx: Context) -> Any:
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc]
        """Passes the loss curve on."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            for name in ("loss", "learning_rate"):
                if name in (logs or {}):
                    ctx.report(name, logs[name], f"step {state.global_step}")
            if "loss" in (logs or {}):
                ctx.progress(state.global_step, state.max_steps, f"loss {float(logs['loss']):.3f}")

    return Reporter()


def _tidy_adapter(folder: Path, base_model: str) -> None:
    """Make the saved adapter the same in every process: no local path, no set in random order, no model card."""
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = base_model
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
