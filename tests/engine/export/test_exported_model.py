"""PEFT and transformers load an exported model as its card says, and it answers as in the registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError, PipelineError
from engine.export.model_folder import _licence_in
from engine.export.versions import export
from registry import Model, Registry, StoredFile
from tests.engine.export.test_export import commit, front
from tests.engine.run_pipelines import run_text

QUESTION = [{"role": "user", "content": "q1"}]


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose card states its licence."""
    folder = tmp_path_factory.mktemp("models") / "my-base"
    shutil.copytree(tiny_model, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with an adapter (`demo/ad`) and full weights (`demo/full`), trained at a rate that makes them differ."""
    folder = tmp_path_factory.mktemp("trained")
    row = {"prompt": QUESTION, "completion": [{"role": "assistant", "content": "yes"}]}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    settings = {"max_steps": 2, "batch_size": 1, "max_length": 64, "learning_rate": 0.05}
    document = {
        "name": "demo",
        "models": {"student": {"provider": "transformers", "model": str(base)}},
        "datasets": {"rows": {"type": "SFTExample", "path": str(folder / "rows.jsonl")}},
        "steps": {
            "ad": {"op": "train_sft", "in": "rows", "with": {**settings, "lora": {"r": 4}}},
            "full": {"op": "train_sft", "in": "rows", "with": {**settings, "lora": None}},
        },
    }
    registry = Registry(folder / "registry")
    with pytest.MonkeyPatch.context() as patched:
        from tests.in_process import InProcess

        patched.chdir(folder)
        result = run_text(json.dumps(document), registry, cluster=InProcess())
    assert result.state == "succeeded", result.error
    return registry


def logits(model: Any, tokenizer: Any) -> Any:
    import torch

    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        return model(ids["input_ids"]).logits


def test_an_adapter_on_a_local_base_is_exported_with_it(
    trained: Registry, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    done = export(trained, "demo/ad", "hf", out)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    assert "base/model.safetensors" in done.files
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template
    by_card = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(out / "base"), out)
    monkeypatch.chdir(out)
    by_itself = AutoPeftModelForCausalLM.from_pretrained(".")
    assert torch.equal(logits(by_card, tokenizer), logits(by_itself, tokenizer))
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.allclose(logits(by_card, tokenizer), logits(plain, tokenizer), atol=1e-3)
    text = (out / "README.md").read_text()
    assert 'PeftModel.from_pretrained(base, "FOLDER")' in text
    assert str(base) not in text
    assert str(base.parent) not in "".join(path.read_text(errors="replace") for path in out.glob("*.json"))
    assert front(out)["license"] == "mit"
    assert "base_model" not in front(out)


def test_merged_weights_need_no_base_and_give_the_adapters_answers(trained: Registry, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    export(trained, "demo/ad", "hf", tmp_path / "ad")
    done = export(trained, "demo/ad", "hf", tmp_path / "merged", merge=True)
    assert not any(name.startswith(("adapter", "base/")) for name in done.files)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "ad" / "base"), tmp_path / "ad")
    assert torch.allclose(logits(merged, tokenizer), logits(adapter, tokenizer), atol=1e-4)
    answers = pipeline("text-generation", model=str(tmp_path / "merged"), max_new_tokens=2)(QUESTION)
    assert answers[0]["generated_text"][-1]["role"] == "assistant"
    metadata = front(tmp_path / "merged")
    assert (metadata["library_name"], metadata["license"]) == ("transformers", "mit")
    assert "merged into `my-base`" in (tmp_path / "merged" / "README.md").read_text()


def test_full_weights_are_exported_unchanged(trained: Registry, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export(trained, "demo/full", "hf", tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert front(tmp_path / "out")["library_name"] == "transformers"
    with pytest.raises(PipelineError, match="--merge is only for adapters: demo/full@1 has full weights"):
        export(trained, "demo/full", "hf", tmp_path / "merged", merge=True)
    for target, format, why in (("demo/ad", "jsonl", "it needs --to hf"), ("demo/rows", "hf", "demo/rows@1 is a dataset")):
        with pytest.raises(PipelineError, match=why):
            export(trained, target, format, tmp_path / "merged", merge=True)
    assert not (tmp_path / "merged").exists()


def test_a_changed_base_is_refused_and_a_missing_one_is_noted_or_refused_for_merging(
    trained: Registry, base: Path, tmp_path: Path
) -> None:
    config = (base / "config.json").read_text()
    try:
        (base / "config.json").write_text(config + "\n")
        for merge in (False, True):
            with pytest.raises(EngineError, match="is no longer the model that demo/ad@1 was trained on"):
                export(trained, "demo/ad", "hf", tmp_path / "out", merge=merge)
    finally:
        (base / "config.json").write_text(config)
    base.rename(base.with_name("moved"))
    try:
        export(trained, "demo/ad", "hf", tmp_path / "out")
        with pytest.raises(EngineError, match="cannot be merged, because its base model is missing"):
            export(trained, "demo/ad", "hf", tmp_path / "merged", merge=True)
    finally:
        base.with_name("moved").rename(base)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "my-base"
    assert "was missing when this was exported" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "hub", "licence"),
    [("org/base", "org/base", None), ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")],
)
def test_an_adapter_on_a_hub_model_names_that_model(
    name: str, hub: str, licence: str | None, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.export import model_folder

    files = {"adapter_config.json": json.dumps({"base_model_name_or_path": name}).encode(), "tokenizer_config.json": b"{}"}
    stored = {file: registry.store.put_bytes(data) for file, data in files.items()}
    listed = [StoredFile(name=file, sha256=each.sha256, bytes=each.bytes) for file, each in stored.items()]
    commit(registry, "demo/ad", [[Model(base_model=name, format="adapter", files=listed)]])
    monkeypatch.setattr(model_folder, "materialise", lambda weights, store: tmp_path)  # nothing is copied from it
    export(registry, "demo/ad", "hf", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == hub
    metadata = front(tmp_path / "out")
    assert (metadata["base_model"], metadata["base_model_relation"], metadata.get("license")) == (hub, "adapter", licence)
    assert "AutoPeftModelForCausalLM" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "text", ["", "# no front matter", "---\n- 1\n---\n", "---\nlicense: [a\n---\n", "---\nlicense: 3\n---\n"]
)
def test_a_licence_missing_from_the_card_is_unknown(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert _licence_in(tmp_path / "README.md") is None
    assert _licence_in(tmp_path / "other.md") is None
