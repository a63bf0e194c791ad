"""Pipelines whose models are served by tests/scripted_server.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests import scripted_server

SERVER = scripted_server.__file__
_FILES = {"calls", "died", "pids"}


def command(*options: str) -> list[str]:
    """The command of a scripted server that notes its calls in the file `calls`. Its files are in the test's folder."""
    whole = [str(Path(option).absolute()) if option in _FILES else option for option in ("--calls", "calls", *options)]
    return ["{python}", SERVER, "--port", "{port}", "--host", "{host}", *whole]


def served(*options: str, **more: Any) -> dict[str, Any]:
    """A model that the engine serves."""
    model = {name: more.pop(name) for name in list(more) if name in ("model", "limits", "retries", "identity", "temperature")}
    serve = {"command": command(*options), "python": sys.executable, **more}
    return {"provider": "openai", "model": "test-model", "serve": serve, **model}


def pipeline(*steps: str, **models: dict[str, Any]) -> str:
    """Steps, each asking the model `teacher` (or the one after `:`), about the same words."""
    named = dict(step.split(":") if ":" in step else (step, "teacher") for step in steps or ("asked",))
    document = {
        "name": "demo",
        "models": models,
        "datasets": {"words": {"type": "Word", "path": "words.jsonl"}},
        "steps": {name: {"op": "ask_once", "in": "words", "models": {"teacher": model}} for name, model in named.items()},
    }
    return json.dumps(document)


def calls() -> list[tuple[int, str]]:
    """(process, prompt) of all calls that servers have answered."""
    lines = Path("calls").read_text().splitlines() if Path("calls").exists() else []
    return [(int(pid), prompt) for pid, prompt in (line.split(" ", 1) for line in lines)]
