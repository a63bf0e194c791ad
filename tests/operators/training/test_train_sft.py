"""Training makes a usable model version, the same one every time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from registry import Model, Registry
from tests.engine.run_pipelines import ask, run_text


def train(registry: Registry, model: Path, rows: int = 6, question: str = "q", **settings: Any) -> Any:
    """Train on `rows` examples."""
    examples = [
        {"prompt": [{"role": "user", "content": f"{question}{n}"}], "completion": [{"role": "assistant", "content": "yes"}]}
        for n in range(rows)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    document = {
        "name": "demo",
        "models": {"student": {"provider": "transformers", "model": str(model)}},
        "datasets": {"rows": {"type": "SFTExample", "path": "rows.jsonl", "allow_empty": True}},
        "steps": {
            "sft": {"op": "train_sft", "in": "rows", "with": {"batch_size": 2, "max_length": 64, "epochs": 2, **settings}}
        },
    }
    return run_text(json.dumps(document), registry)


def losses(registry: Registry, version: int = 1) -> list[float]:
    return [
        value
        for (value,) in ask(
            registry,
            f"select value from metrics where metric = 'loss' and version = {version} "
            "order by cast(replace(slice, 'step ', '') as int)",
        )
    ]


@pytest.mark.usefixtures("in_process")
def test_an_adapter_is_trained_and_answers(registry: Registry, tiny_model: Path, tmp_path: Path) -> None:
    result = train(registry, tiny_model, learning_rate=0.05)
    assert result.state == "succeeded", result.error
    curve = losses(registry)
    assert len(curve) == 6
    assert curve[-1] < curve[0]
    assert ask(registry, "select kind, type, rows from datasets where name = 'demo/sft'") == [("model", "Model", 1)]
    with registry.session() as session:
        [model] = Model.from_table(session.table("demo/sft@1"))
    assert (model.format, model.base_model) == ("adapter", str(tiny_model))
    names = {file.name for file in model.files}
    assert {"adapter_model.safetensors", "adapter_config.json", "loss.png"} <= names
    assert (
        str(tmp_path)
        not in registry.store.path(next(f.sha256 for f in model.files if f.name == "adapter_config.json")).read_text()
    )

    Path("words.jsonl").write_text('{"text": "q1"}\n')
    answered = run_text(
        "{name: use, models: {teacher: {provider: transformers, model: 'registry:demo/sft@1', max_tokens: 5, temperature: 0}},"
        " datasets: {words: {type: Word, path: words.jsonl}}, steps: {asked: {op: ask_once, in: words, max_reject_ratio: 1}}}",
        registry,
    )
    assert answered.state == "succeeded", answered.error
    assert ("use/asked", "demo/sft") in ask(registry, "select child, parent from lineage")

    again = run_text(
        "{name: more, models: {student: {provider: transformers, model: 'registry:demo/sft@1'}},"
        " datasets: {rows: {type: SFTExample, path: rows.jsonl}}, steps: {sft: {op: train_sft, in: rows}}}",
        registry,
    )
    assert again.state == "succeeded", again.error
    with registry.session() as session:
        [more] = Model.from_table(session.table("more/sft@1"))
    assert (more.format, more.base_model) == ("adapter", str(tiny_model))
    assert ("more/sft", "demo/sft") in ask(registry, "select child, parent from lineage")


@pytest.mark.usefixtures("in_process")
def test_nothing_to_train_on_is_an_error(registry: Registry, tiny_model: Path) -> None:
    result = train(registry, tiny_model, rows=0)
    assert result.state == "failed"
    assert "the input has no rows" in result.error


@pytest.mark.usefixtures("in_process")
def test_rows_that_do_not_fit_are_counted_and_an_error_if_none_fits(registry: Registry, tiny_model: Path) -> None:
    result = train(registry, tiny_model, max_length=8)
    assert result.state == "succeeded", result.error
    assert ask(registry, "select metric, value from metrics where metric like 'rows%' order by 1") == [
        ("rows", 6),
        ("rows_dropped", 0),
        ("rows_truncated", 6),
    ]
    result = train(registry, tiny_model, question="a question that is too long", max_length=8)
    assert result.state == "failed"
    assert "all 6 prompts fill max_length=8" in result.error


@pytest.mark.usefixtures("in_process")
def test_rows_that_training_never_reached_are_unused_and_not_filtered(registry: Registry, tiny_model: Path) -> None:
    result = train(registry, tiny_model, rows=7, max_steps=2, max_length=64)
    [step] = result.steps
    assert (step.record.rows_in, step.record.filtered, step.record.unused) == (7, 0, 3)
    assert ask(registry, "select count(*) from training_exposure") == [(4,)]
    assert registry.manifest("demo/sft", 1).unused == 3

    long = train(registry, tiny_model, rows=12, question="a question of some length", max_steps=2, max_length=30)
    assert long.error is None
    [step] = long.steps  # two digits are too many
    assert (step.record.filtered, step.record.unused) == (2, 6)
    again = train(registry, tiny_model, rows=12, question="a question of some length", max_steps=2, max_length=30)
    assert (again.steps[0].record.outcome, again.steps[0].record.unused) == ("hit", 6)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(400)
def test_two_devices_train_together(registry: Registry, tiny_model: Path) -> None:
    result = train(registry, tiny_model, rows=8, devices=2, learning_rate=0.05)
    assert result.state == "succeeded", f"{result.error}\n{result.trace}"
    curve = losses(registry)
    assert len(curve) == 4  # 8 rows twice, 2 on each of 2 devices
    assert curve[-1] < curve[0]
    assert ask(registry, "select row, times_seen from training_exposure order by row") == [(row, 2) for row in range(8)]


@pytest.mark.usefixtures("ray_session")
def test_more_devices_than_available_are_an_error(registry: Registry, tiny_model: Path) -> None:
    result = train(registry, tiny_model, devices=99)
    assert "99 devices with 1 CPU each do not fit on the nodes of the cluster" in str(result.error)


@pytest.mark.usefixtures("in_process")
def test_preference_training_continues_from_a_steps_model(registry: Registry, tiny_model: Path) -> None:
    turns = {role: [{"role": "assistant", "content": text}] for role, text in (("chosen", "yes"), ("rejected", "no"))}
    rows = [{"prompt": [{"role": "user", "content": f"q{number}"}], **turns} for number in range(6)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "name": "demo",
        "models": {
            "student": {"provider": "transformers", "model": str(tiny_model)},
            "tuned": {"provider": "transformers", "model": "step:sft"},
        },
        "datasets": {
            "pairs": {"type": "PreferencePair", "path": "pairs.jsonl"},
            "rows": {"type": "SFTExample", "path": "r.jsonl"},
        },
        "steps": {
            "sft": {"op": "train_sft", "in": "rows", "with": {"batch_size": 2, "epochs": 1}},
            "dpo": {"op": "train_dpo", "in": "pairs", "models": {"student": "tuned"}, "with": {"micro_batch_size": 2}},
        },
    }
    completion = {"completion": [{"role": "assistant", "content": "yes"}]}
    Path("r.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"], **completion}) + "\n" for row in rows))
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    first = ask(registry, "select value from metrics where name = 'demo/dpo' and metric = 'loss' and slice = 'step 1'")
    assert first == [(pytest.approx(math.log(2), abs=1e-4),)]
    assert ("demo/dpo", "demo/sft") in ask(registry, "select child, parent from lineage")
    assert ask(registry, "select count(*) from training_exposure where model = 'demo/dpo'") == [(6,)]
