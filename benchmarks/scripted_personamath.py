"""PersonaMath's graph with a scripted server in all roles: pipeline, data and answers.

The steps, their edges and prompts are those of pipelines/personamath.yaml. Different are

* the models: one, behind the server, is teacher, student and tuned student, so that its limits are the limits of the whole run;
* `sft`, which is left out, so that `after` waits for no training;
* `unique`, which finds exact duplicates only: the problems are all from one template;
* `report`, which does without the encoder;
* the personas, which have no occupations, so that `classes` asks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import yaml

from benchmarks.warehouse_problems import HELD_OUT, is_original, problems, retold, worked
from operators.math.occupations import OCCUPATIONS

PIPELINES = Path(__file__).parents[1] / "pipelines"
UNSOLVED, NOT_REPAIRED, REWRITES_UNSOLVED, STUDENT_WRONG = 0.15, 0.4, 0.1, 0.5
"""Shares of wrong solutions: of the first ones, of reflections, of solutions of rewrites, and of the student's."""


def pipeline(model: dict[str, Any]) -> dict[str, Any]:
    """The pipeline, as its YAML has it, on the files that `write_data` writes."""
    document: dict[str, Any] = yaml.safe_load((PIPELINES / "personamath.yaml").read_text())
    steps = document["steps"]
    document["models"] = {"teacher": model}
    document["params"] |= {"train": "train.jsonl", "test": "test.jsonl", "personas": "personas.jsonl"}
    del steps["sft"]
    steps["unique"]["with"] = {"method": "exact", "fields": ["question"]}
    for name in ("before", "after"):
        steps[name]["models"] = {"student": "teacher"}
    # Otherwise its requests would be those of `before`, and the journal would answer them.
    steps["after"]["with"] = {"prompt": "You were trained for this.\n\n" + document["params"]["question"]}
    steps["report"]["with"] = {"embeddings": False}
    return document


def write_data(folder: Path, rows: int) -> None:
    """Training problems, half as many test problems, and the personas that come with the engine."""
    personas = [json.loads(line)["persona"] for line in (PIPELINES / "personas.jsonl").read_text().splitlines()]
    for name, found in (
        ("train", problems(range(rows))),
        ("test", problems(range(rows, rows + rows // 2), HELD_OUT)),
        ("personas", ({"persona": persona} for persona in personas)),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def answer(body: dict[str, Any]) -> str:
    """The text for a request: an occupation, a rewrite, or a solution, which is right or wrong by the request's text."""
    if "response_format" in body:
        return json.dumps(_structured(body["messages"][-1]["content"]))
    prompt: str = body["messages"][-1]["content"]
    before, asked, problem = prompt.rpartition("Problem: ")
    if not asked:  # the student gets the bare problem
        return worked(prompt, wrong=_drawn(prompt, STUDENT_WRONG))
    _, named, persona = before.rpartition("Persona: ")
    if named:
        return retold(problem, persona)
    if "\nSolution:" in problem:
        return worked(problem, wrong=_drawn(problem, NOT_REPAIRED))
    return worked(problem, wrong=_drawn(problem, UNSOLVED if is_original(problem) else REWRITES_UNSOLVED))


def _structured(prompt: str) -> dict[str, str]:
    _, person, persona = prompt.rpartition("Person: ")
    # What is no persona is the question by which the engine finds out whether the server knows `response_format`.
    return {"occupation": OCCUPATIONS[crc32(persona.encode()) % len(OCCUPATIONS)]} if person else {"city": "Paris"}


def _drawn(text: str, share: float) -> bool:
    """True for that share of texts, always the same ones."""
    return crc32(text.encode()) % 1000 < 1000 * share
