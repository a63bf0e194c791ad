"""The shipped PersonaMath pipeline, whole: a scripted teacher on a real server, a tiny student, every table of the report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipelines
from benchmarks import scripted_personamath
from engine.pipeline.check import check
from registry import Registry, Report
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, outcomes, run_text

FILES = Path(pipelines.__file__).parent


def problem(a: int, b: int, **more: Any) -> dict[str, Any]:
    return {
        "question": f"Tom has {a} pens and buys {b} more. How many pens has he now?",
        "answer": f"So.\n#### {a + b}",
        **more,
    }


def teacher(prompt: str, seen: int) -> str:
    """Add the two numbers, wrongly at first if one of them is 7; rewrite problems in the persona's words."""
    problem_text = prompt.rpartition("Problem: ")[2]
    a, b = (int(each) for each in re.findall(r"\d+", problem_text)[:2])
    if persona := re.search(r"Persona: (.*)", prompt):
        return f"A person thinks of {a} things and of {b}: {' '.join(persona[1].split()[:6])}. What is the sum?"
    wrong = 7 in (a, b) and "Solution:" not in prompt
    return f"{a} + {b} is \\boxed{{{a + b + wrong}}}"


def document(server: ChatServer, student: Path) -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load((FILES / "personamath.yaml").read_text())
    whole["models"]["teacher"] = json.loads(server.model())
    for name in ("student", "tuned"):
        whole["models"][name]["max_tokens"] = 4
    whole["params"] |= {
        "train": "train.jsonl",
        "test": "test.jsonl",
        "student": str(student),
        "personas": str(FILES / "personas.jsonl"),
        "k1": 2,
        "k2": 1,
    }
    whole["steps"]["sft"]["with"] |= {"max_steps": 2, "batch_size": 2, "max_length": 512}
    return whole


@pytest.mark.usefixtures("in_process")
@pytest.mark.timeout(400)
def test_from_seed_problems_to_an_evaluated_model(registry: Registry, chat_server: ChatServer, tiny_model: Path) -> None:
    train = [problem(a, b) for a, b in ((31, 4), (7, 15), (50, 41), (7, 22), (61, 8))]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    # One of the training problems is in the test set.
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (problem(61, 8), problem(3, 9))))
    chat_server.answer = teacher
    text = json.dumps(document(chat_server, tiny_model))

    result = run_text(text, registry)
    assert result.state == "succeeded", result.error
    rows = dict(ask(registry, "select name, rows from datasets"))
    assert (rows["personamath/cot.solved"], rows["personamath/reflect.solved"]) == (3, 2)
    assert (rows["personamath/augment1.solved"], rows["personamath/augment2.solved"]) == (6, 2)
    assert rows["personamath/clean.contaminated"] == 1
    assert rows["personamath/rows"] == 12
    assert rows["personamath/after"] == 2
    assert "#### " not in json.dumps(chat_server.requests)  # no gold answer in any prompt

    [report] = registry.records("personamath/report@1", Report)
    assert "| repaired by reflection (stage 2) | 2 | 2 | 100.0% (34.2% to 100.0%) |" in report.text
    assert "| **all** | 2 | " in report.text
    assert {file.name for file in report.files} == {"accuracy.png", "composition.csv"}
    metrics = {
        (name, part): value
        for name, part, value in ask(registry, "select metric, slice, value from metrics where name = 'personamath/report'")
    }
    assert metrics["repair_rate", ""] == 1
    assert metrics["composition", "train / stage 1 / original"] == 2
    assert sum(value for (name, _), value in metrics.items() if name == "composition") == 12
    assert metrics["types", "augmented"] > metrics["types", "seeds"]
    assert 0 < metrics["nearest_distance", "seeds"] < metrics["nearest_distance", "augmented"] < 1
    assert ("accuracy", "before test") in metrics

    # A training row of stage 2 is traced to its seed, its persona and all calls that made it; the model to the row.
    [(row,)] = ask(
        registry, 'select row from "personamath/clean.clean" where stage = 2 and persona is not null order by 1 limit 1'
    )
    traced = ask(registry, f"select name, call_ids from trace('personamath/rows@1', {row})")
    assert {"personamath/problems", "personamath/personas", "personamath/reflect.solved"} <= {name for name, _ in traced}
    assert sum(len(calls or []) for _, calls in traced) >= 4
    assert ask(registry, "select count(*) from training_exposure where model = 'personamath/sft'")[0][0] > 0

    again = run_text(text, registry)
    assert set(outcomes(again).values()) == {"hit"}


def test_the_mini_pipeline_has_the_same_graph() -> None:
    whole, mini = (
        yaml.safe_load((FILES / name).read_text())["steps"] for name in ("personamath.yaml", "personamath-mini.yaml")
    )
    assert {name: step["op"] for name, step in whole.items()} == {name: step["op"] for name, step in mini.items()}


def test_the_pipeline_of_the_benchmark_has_the_same_graph_without_the_training(workdir: Path) -> None:
    scripted_personamath.write_data(workdir, 4)
    model = {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    (workdir / "p.yaml").write_text(json.dumps(scripted_personamath.pipeline(model)))
    steps = check(workdir / "p.yaml").steps
    whole = yaml.safe_load((FILES / "personamath.yaml").read_text())["steps"]
    assert {name: step.spec.op for name, step in steps.items()} == {
        name: step["op"] for name, step in whole.items() if name != "sft"
    }
    assert {name for step in steps.values() for name in step.spec.models.values()} <= {"teacher"}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_mini_pipeline_runs_on_the_embedded_model(engine: Any) -> None:
    done = engine("run", "personamath-mini", "--set", "problems=8", "--set", "test=4", timeout=1700)
    assert done.returncode == 0, done.stderr
    assert "## Accuracy on held-out problems" in done.stdout
