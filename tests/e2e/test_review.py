"""A pipeline that people review, by commands: it waits, continues when they have decided, and pays for no call twice.

The commands run in this process, and so do their workers.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import engine as library
from engine.cli.app import app
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask
from tests.in_process import InProcess

ROWS = 6


def pipeline(server: ChatServer) -> str:
    """A model's answers, a review, and a step that rewrites the reviewed rows; and a branch without a review."""
    return f"""\
name: demo
models: {{model: {server.model()}}}
datasets: {{questions: {{path: questions.jsonl}}}}
steps:
  answers: {{op: generate, in: questions, with: {{prompt: "Answer: {{{{ question }}}}", into: answer}}}}
  checked: {{op: review, in: answers, with: {{labels: [good, better], label_field: grade, reviewers: 1}}}}
  told: {{op: generate, in: checked, with: {{prompt: "Tell: {{{{ answer }}}} ({{{{ grade }}}})", into: story}}}}
  beside: {{op: map, in: answers, with: {{set: {{length: length(answer)}}}}}}
"""


def command(*words: str) -> Result:
    """A command in this process."""
    return CliRunner().invoke(app, [*words])


def test_a_run_waits_is_reviewed_in_part_waits_and_continues(
    workdir: Path, registry: Registry, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.running.run.Cluster", lambda _: InProcess())
    Path("questions.jsonl").write_text("".join(json.dumps({"question": f"What is {n}?"}) + "\n" for n in range(ROWS)))
    Path("p.yaml").write_text(pipeline(chat_server))

    def decide(count: int, **decision: object) -> str:
        """Fill in the next lines of an export, and import it; returns what the import says."""
        exported = command("reviews", "export", "demo/checked", "r.jsonl", "--overwrite")
        assert exported.exit_code == 0, exported.output
        lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
        for line in [line for line in lines if line["verdict"] is None][:count]:
            line.update(decision)
        Path("r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        imported = command("reviews", "import", "r.jsonl", "--reviewer", "Ann")
        assert imported.exit_code == 0, imported.output
        return imported.stdout

    first = command("run", "p.yaml")
    assert first.exit_code == 3, first.output
    assert "Step checked waits: 0 of 6 rows decided, 6 more needed" in first.stdout
    # The commands that it names are complete.
    listed = [line for line in first.stdout.splitlines() if line.startswith("  ")]
    named = [line.strip() for line in listed if " reviews " in line or line.endswith(" ui")]
    assert len(named) == 3
    called = shlex.split(named[1])
    assert called[called.index("reviews") :] == ["reviews", "export", "demo/checked", "reviews.jsonl"]
    assert ask(registry, 'select count(*) from "demo/beside@1"') == [(ROWS,)]
    assert "3 of 6 rows decided" in decide(3, verdict="approve", labels=["good"])

    second = command("run", "p.yaml", "--json")
    assert second.exit_code == 3, second.output
    document = json.loads(second.stdout)
    assert document["state"] == "waiting"
    outcomes = {step["step"]: step["outcome"] for step in document["steps"]}
    assert outcomes == {"answers": "hit", "checked": "waiting", "beside": "hit"}
    [review] = [step["review"] for step in document["steps"] if step["review"]]
    assert review == {"queue": "demo/checked", "rows": 6, "decided": 3, "needed": 6, "missing": 3}
    decide(1, verdict="reject", reason="wrong")
    assert "To continue:" in decide(2, verdict="edit", fields={"answer": "It is so."}, labels=["better"])

    third = command("run", "p.yaml")
    assert third.exit_code == 0, third.output
    assert ask(registry, "select reason from rejects") == [("wrong",)]
    told = ask(registry, 'select answer, grade from "demo/told" order by row')
    assert told == [(f"You said: Answer: What is {n}?", "good") for n in range(3)] + [("It is so.", "better")] * 2
    assert [grade for (grade,) in ask(registry, "select state from runs order by started_at")] == [
        "waiting",
        "waiting",
        "succeeded",
    ]
    asked = Counter(chat_server.prompts)
    # Two rows were edited to the same answer, and ask the same.
    assert set(asked.values()) == {1}
    assert len(asked) == ROWS + 4

    # One row is replaced by another: people are asked only about the new one, and only its calls are paid for.
    lines = Path("questions.jsonl").read_text().splitlines()
    Path("questions.jsonl").write_text("\n".join([*lines[1:], json.dumps({"question": "What is new?"})]) + "\n")
    fourth = library.run("p.yaml", registry=registry.root, quiet=True)
    assert fourth.state == "waiting"
    assert dict(fourth.reviews["checked"]) == {"queue": "demo/checked", "rows": 6, "decided": 5, "needed": 6, "missing": 1}
    assert len(chat_server.requests) == ROWS + 5
    decide(1, verdict="approve", labels=["good"])
    assert library.run("p.yaml", registry=registry.root, quiet=True).state == "succeeded"
    assert len(chat_server.requests) == ROWS + 6
    assert set(Counter(chat_server.prompts).values()) == {1}
