"""Steps whose models are not trained yet: `check` reports models that will not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from registry import Registry
from tests.engine.run_pipelines import ask, run_text


def pipeline(model: Path, **settings: dict[str, Any]) -> dict[str, Any]:
    """A training on a training on a training, with these settings of each."""
    said = {role: [{"role": "assistant", "content": text}] for role, text in (("chosen", "yes"), ("rejected", "no"))}
    question = {"prompt": [{"role": "user", "content": "why?"}]}
    Path("sft.jsonl").write_text(json.dumps(question | {"completion": said["chosen"]}) + "\n")
    Path("pairs.jsonl").write_text(json.dumps(question | said) + "\n")
    small = {"max_steps": 1, "batch_size": 2, "max_length": 64}
    return {
        "name": "demo",
        "models": {
            "student": {"provider": "transformers", "model": str(model)},
            "tuned": {"provider": "transformers", "model": "step:sft"},
            "preferring": {"provider": "transformers", "model": "step:dpo"},
        },
        "datasets": {
            "rows": {"type": "SFTExample", "path": "sft.jsonl"},
            "pairs": {"type": "PreferencePair", "path": "pairs.jsonl"},
        },
        "steps": {
            "again": {
                "op": "train_sft",
                "in": "rows",
                "models": {"student": "preferring"},
                "with": {**small, **settings.get("again", {})},
            },
            "dpo": {
                "op": "train_dpo",
                "in": "pairs",
                "models": {"student": "tuned"},
                "with": {**small, **settings.get("dpo", {})},
            },
            "sft": {"op": "train_sft", "in": "rows", "with": {**small, **settings.get("sft", {})}},
        },
    }


def problems(document: dict[str, Any]) -> list[str]:
    Path("p.yaml").write_text(json.dumps(document, indent=1))
    try:
        check(Path("p.yaml"))
    except PipelineError as error:
        return [str(each) for each in error.problems]
    return []


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"sft": {"lora_rank": 4}}, None),
        ({"sft": {"lora_rank": 4}, "dpo": {"lora": {"r": 4}}}, None),
        ({"sft": {"lora_rank": 4}, "dpo": {"lora": {"r": 16}}}, "train_dpo: the student is an adapter with r 4"),
        ({"sft": {"lora_rank": 4}, "again": {"lora_rank": 8}}, "train_sft: the student is an adapter with r 4"),
        ({"sft": {"lora_rank": 4}, "dpo": {"lora_rank": 8, "student_adapter": "merge"}}, None),
        ({"sft": {"lora": None}, "dpo": {"lora_rank": 8}}, None),
        ({"sft": {"lora": None}, "dpo": {"lora_rank": 8}, "again": {"lora_rank": 4}}, "adapter with r 8"),
        ({"sft": {"lora_alpha": 8}, "dpo": {"lora": {"alpha": 32}}}, "with alpha 8, which is trained further"),
        ({"sft": {"use_rslora": True}, "dpo": {"use_rslora": True}}, None),
        ({"dpo": {"use_rslora": True}}, "with use_rslora null"),
        ({"sft": {"lora_target": "q_proj"}, "dpo": {"lora_target": "all"}}, "target_modules"),
    ],
    ids=str,
)
def test_an_adapter_that_will_not_fit_is_found_by_check(
    settings: dict[str, Any], why: str | None, tiny_model: Path, workdir: Path
) -> None:
    found = problems(pipeline(tiny_model, **settings))
    assert len(found) == (0 if why is None else 1)
    assert (why or "") in "".join(found)
    assert all("p.yaml:" in each for each in found)


@pytest.mark.usefixtures("in_process")
def test_dpo_trains_an_adapter_of_any_rank_further(registry: Registry, tiny_model: Path) -> None:
    document = pipeline(tiny_model, sft={"lora": {"r": 4, "alpha": 6}})
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    made = ask(registry, "select config from 'demo/again'") + ask(registry, "select config from 'demo/dpo'")
    for (config,) in made:
        lora = json.loads(config)["lora"]
        assert (lora["r"], lora["alpha"], lora["dropout"]) == (4, 6, 0)
    document["steps"] = {"more": {**document["steps"]["dpo"], "with": {"lora": {"r": 2}}}}
    document["models"] = {"tuned": {"provider": "transformers", "model": "registry:demo/sft@1"}}
    assert "adapter with r 4" in str(run_error(document, registry))


def run_error(document: dict[str, Any], registry: Registry) -> PipelineError:
    with pytest.raises(PipelineError) as error:
        run_text(json.dumps(document), registry)
    return error.value
