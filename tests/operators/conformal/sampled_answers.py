"""Questions with sampled answers, and pipelines that sample, calibrate and predict on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry import Registry
from tests.chat_server import ChatServer, completion
from tests.engine.run_pipelines import ask, run_text
from tests.operators.alignment.conflicts import write

MADE = {"model": "openai m", "prompt": "p", "sampling": "{}", "samples": 10}


def row(number: int, *counts: int, right: int | None = 0, **more: Any) -> dict[str, Any]:
    """SampledAnswers with answer 0 sampled counts[0] times, ...; answer `right` is accepted (None: it was not sampled)."""
    texts = [f"answer {place}" for place, count in enumerate(counts) for _ in range(count)]
    accepted = "something else" if right is None else f"answer {right}"
    return {"question": f"question {number}", "answers": [accepted], "samples": texts, "made": MADE, **more}


def varied(n: int, missing: float = 0.2, **more: Any) -> list[dict[str, Any]]:
    """Questions whose right answer is the most frequent, the second, the third, or was never sampled."""
    made = []
    for number in range(n):
        place = number * 0.6180339887 % 1  # spread evenly, in no order
        right = None if place < missing else 0 if place < 0.7 else 1 if place < 0.9 else 2
        top = 4 + number % 6
        made.append(row(number, top, 9 - top + 1 if top < 9 else 1, *([1] if top < 8 else []), right=right, **more))
    return made


def run_conformal(registry: Registry, steps: dict[str, Any], models: dict[str, Any] | None = None, **how: Any) -> Any:
    """Run steps on `samples.jsonl`, and on other files of the record types if they exist."""
    files = {"samples": "SampledAnswers", "new": "SampledAnswers", "questions": "Question"}
    datasets = {
        name: {"type": record, "path": f"{name}.jsonl", "allow_empty": True}
        for name, record in files.items()
        if Path(f"{name}.jsonl").exists()
    }
    return run_text(json.dumps({"name": "demo", "models": models or {}, "datasets": datasets, "steps": steps}), registry, **how)


def calibrate(registry: Registry, *rows: dict[str, Any], **settings: Any) -> Any:
    write("samples.jsonl", *rows)
    given = {"alphas": [0.2, 0.3, 0.5], "similarity": False, **settings}
    return run_conformal(registry, {"cal": {"op": "cp_calibrate", "in": "samples", "with": given}})


def metrics(registry: Registry, name: str = "demo/cal.calibration") -> dict[str, float]:
    return {
        f"{metric} {part}".strip(): value
        for metric, part, value in ask(registry, f"select metric, slice, value from metrics where name = '{name}'")
    }


def sample(
    registry: Registry, server: ChatServer, *questions: dict[str, Any], temperature: float = 0.8, **settings: Any
) -> Any:
    write("questions.jsonl", *questions)
    models = {"model": json.loads(server.model(temperature=temperature, retries=0, seed=5))}
    return run_conformal(registry, {"ask": {"op": "sample_answers", "in": "questions", "with": settings}}, models)


def script(server: ChatServer, say: Callable[[str, int], str]) -> None:
    """Make the server answer questions by (prompt, sample number), and anything else differently each time."""

    def reply(body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        if prompt.endswith("Answer:"):
            return completion(say(prompt, body.get("seed", 5) - 5))
        return completion(f"word {len(server.requests)}")

    server.reply = reply


def asked(server: ChatServer) -> list[str]:
    return [prompt for prompt in server.prompts if prompt.endswith("Answer:")]


FRANCE = {"question": "What is the capital of France?", "answers": ["Paris", "Lutetia"], "group": "capital", "id": "fr"}
