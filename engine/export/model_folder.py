"""Completes the folder of an exported model so that others can load it: with tokenizer and base model, or merged weights."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from engine.errors import EngineError, PipelineError, Problem
from engine.llm.weights import EMBEDDED, ModelWeights, identify, materialise
from registry import Manifest, Model, Registry

BASE = "base"
"""The subfolder for the base model of an adapter, if it is not on a hub."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_OF_EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
_LICENCE_OF_EMBEDDED = "apache-2.0"
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja"),
)


@dataclass(frozen=True)
class Loading:
    """How an exported model is loaded.

    Attributes:
        how: `full` weights, or an adapter on a model from the `hub`, on the one in the subfolder `base`, or on a `missing` one.
        base: the Hugging Face id of the base model, or its name if it has none.
        hub: whether `base` is a Hugging Face id.
        licence: the licence of the base model, if known.
        merged: the adapter was merged into the weights.
    """

    how: Literal["full", "hub", "base", "missing"]
    base: str
    hub: bool
    licence: str | None
    merged: bool = False


def complete(registry: Registry, manifest: Manifest, model: Model, folder: Path, *, merge: bool) -> Loading:
    """Complete a folder with a model's files.

    Args:
        registry: the registry with the model.
        manifest: the model's version.
        model: the row of the model.
        folder: the folder with the model's files; others are added, or changed.
        merge: merge an adapter into the weights of its base, so that the folder has full weights.

    Raises:
        EngineError: the base model is not the one that the adapter was trained on, or is missing and cannot be merged.
    """
    adapter = model.format == "adapter"
    try:
        with registry.session() as session:
            weights = identify(model.base_model, session)
    except EngineError as error:
        if adapter and merge:
            raise EngineError(f"{manifest.ref} cannot be merged, because its base model is missing: {error}") from error
        weights = None
    base = Path(model.base_model).name if Path(model.base_model).is_absolute() else model.base_model
    hub = _hub_id(model.base_model, weights)
    licence = _licence(weights, registry)
    if not adapter:
        return Loading("full", hub or base, hub is not None, licence)
    if weights is not None:
        _same_base(registry, manifest, weights)
        local = None if weights.source == "hub" else materialise(weights, registry.store)
        if merge:
            _merge(str(local or weights.location), folder)
            return Loading("full", hub or base, hub is not None, licence, merged=True)
        if local is not None:
            _add_tokenizer(local, folder)
        if hub is None and local is not None:
            shutil.copytree(local, folder / BASE, ignore=shutil.ignore_patterns(".*"))
            _point_to(BASE, folder)
            return Loading("base", base, False, licence)
    _point_to(hub or base, folder)
    return Loading("hub" if hub else "missing", hub or base, hub is not None, licence)


def refuse_merging(what: str) -> PipelineError:
    """The error for `--merge` where there is nothing to merge."""
    return PipelineError([Problem(f"--merge is only for adapters: {what}", hint="omit --merge")])


def _hub_id(name: str, weights: ModelWeights | None) -> str | None:
    if name == EMBEDDED:
        return _HUB_OF_EMBEDDED
    if weights is not None:
        return weights.location if weights.source == "hub" else None
    return name if _HUB_ID.fullmatch(name) else None


def _licence(weights: ModelWeights | None, registry: Registry) -> str | None:
    """The licence on the base model's own card."""
    if weights is None:
        return None
    if weights.source == "embedded":
        return _LICENCE_OF_EMBEDDED
    if weights.source == "registry" and weights.model:
        with registry.session() as session:
            try:
                return _licence(identify(weights.model.base_model, session), registry)
            except EngineError:  # its base model is missing
                return None
    if weights.source == "hub":
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(weights.location, "README.md")
        return _licence_in(Path(found)) if isinstance(found, str) else None
    return _licence_in(Path(weights.location) / "README.md")


def _licence_in(card: Path) -> str | None:
    try:
        _, front, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        licence = yaml.safe_load(front)["license"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # no card, or no licence on it
        return None
    return licence if isinstance(licence, str) else None


def _same_base(registry: Registry, manifest: Manifest, weights: ModelWeights) -> None:
    """Check that the folder still has the model that the adapter was trained on."""
    document = json.loads(registry.store.read_bytes(manifest.key_object.sha256))
    student: dict[str, Any] = document.get("models", {}).get("student", {})
    trained_on = str(student.get("model", weights.identity)).rpartition(" on ")[2]
    if trained_on != weights.identity:
        raise EngineError(f"{weights.location} is no longer the model that {manifest.ref} was trained on; restore the old one")


def _add_tokenizer(base: Path, folder: Path) -> None:
    """Add the tokenizer of the base, for adapters of old versions that did not keep one."""
    if (folder / "tokenizer_config.json").exists():
        return
    for name in _TOKENIZER:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def _point_to(base: str, folder: Path) -> None:
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _merge(base: str, folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from engine.library_noise import quiet_transformers

    quiet_transformers()
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    merged = PeftModel.from_pretrained(loaded, str(folder)).merge_and_unload()
    has_tokenizer = (folder / "tokenizer_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(str(folder) if has_tokenizer else base)
    for file in folder.glob("adapter_*"):
        file.unlink()
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
