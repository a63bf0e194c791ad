"""Pipelines that make adapters and ask them, served by the program that replaces vLLM in tests (tests/vllm_stand_in.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.engine.run_pipelines import words
from tests.vllm_stand_in import environment

WORDS = 20


def prepare() -> None:
    """Make a base model, the environment of the servers, and words."""
    for folder in ("base", "notes"):
        Path(folder).mkdir()
    Path("base/config.json").write_text("{}")
    environment(Path("env").absolute())
    words(*map(str, range(WORDS)))


def made(*asked: str, replicas: int = 1, **adapters: Any) -> dict[str, Any]:
    """Steps that ask adapters, one after another. A step that makes an adapter comes before the first one that asks it."""
    env = {"STAND_IN": str(Path("notes").absolute())}
    serve = {"engine": "vllm", "python": str(Path("env").absolute()), "env": env, "replicas": replicas}
    steps: dict[str, Any] = {}
    before = "words"
    for number, name in enumerate(asked):
        ask = f"ask_{name}"
        if f"make_{name}" in steps:
            ask = f"ask_{name}_{number}"
        else:
            settings = {"base": str(Path("base").absolute()), "says": f"I am {name}", **adapters.get(name, {})}
            steps[f"make_{name}"] = {"op": "adapter_of", "in": before, "with": settings}
        steps[ask] = {"op": "ask_once", "in": before, "models": {"teacher": name}}
        before = ask
    models = {
        name: {"provider": "openai", "model": f"step:make_{name}", "serve": serve, "limits": {"concurrency": 4}}
        for name in dict.fromkeys(asked)
    }
    datasets = {"words": {"type": "Word", "path": "words.jsonl"}}
    return {"name": "demo", "models": models, "datasets": datasets, "steps": steps}


def noted(file: str) -> list[list[str]]:
    """The words of each line in a file of the servers; the first one is the process."""
    path = Path("notes") / file
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def servers_of(model: str) -> set[str]:
    """The processes that have answered for a model."""
    return {process for process, name, *_ in noted("calls") if name == f"step:make_{model}"}
