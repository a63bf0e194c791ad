"""Runs of a matrix: shared steps run once and are paid once, variants have names of their own, and SQL has their columns."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from engine.running.result import RunResult
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, outcomes, run_text

ROWS = 6


def pipeline(server: ChatServer, matrix: str = "matrix: {temperature: [0.0, 0.5], teacher: [a, b]}") -> str:
    """A shared step with calls; one step for each teacher; one for each teacher and temperature."""
    model = json.dumps({"provider": "openai", "base_url": server.base_url})[1:-1]
    return f"""\
name: demo
params: {{temperature: 1.0, teacher: a, prefix: Solve}}
{matrix}
models:
  writer: {{{model}, model: writer}}
  teacher: {{{model}, model: "${{params.teacher}}"}}
  student: {{{model}, model: "${{params.teacher}}", system: "at ${{params.temperature}}"}}
datasets:
  problems: {{type: MathProblem, path: problems.jsonl}}
steps:
  shared: {{op: regenerate_cot, in: problems, with: {{attempts: 1}}, models: {{teacher: writer}}}}
  cot: {{op: regenerate_cot, in: problems, with: {{attempts: 1}}}}
  rows: {{op: to_sft, in: [shared.solved, cot.solved]}}
  eval: {{op: evaluate_math, in: problems}}
"""


@pytest.fixture
def problems(workdir: Path) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(ROWS)]
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def answer(prompt: str, _: int) -> str:
    """The right answer."""
    n = int(prompt.partition("What is ")[2].split()[0])
    return f"It is \\boxed{{{2 * n}}}."


def run(server: ChatServer, registry: Registry, **more: Any) -> RunResult:
    result = run_text(pipeline(server), registry, **more)
    assert result.state == "succeeded", result.error
    return result


@pytest.mark.usefixtures("problems", "in_process")
def test_shared_steps_run_and_are_paid_once(chat_server: ChatServer, registry: Registry) -> None:
    chat_server.answer = answer
    result = run(chat_server, registry)
    # The two teachers answer alike, so that one of the two `rows` finds what the other one has made.
    assert set(outcomes(result).values()) <= {"ran", "resumed"}
    asked = Counter(request["model"] for request in chat_server.requests)
    # `a` and `b`: six for `cot`, and six for each temperature of `eval`.
    assert asked == {"writer": ROWS, "a": 3 * ROWS, "b": 3 * ROWS}
    calls = ask(registry, "select variant, step, calls from step_runs where calls > 0 order by all")
    assert calls == [
        ("", "shared", ROWS),
        ("teacher=a", "cot", ROWS),
        ("teacher=b", "cot", ROWS),
        ("temperature=0.0,teacher=a", "eval", ROWS),
        ("temperature=0.0,teacher=b", "eval", ROWS),
        ("temperature=0.5,teacher=a", "eval", ROWS),
        ("temperature=0.5,teacher=b", "eval", ROWS),
    ]
    again = run(chat_server, registry)
    assert set(outcomes(again).values()) == {"hit"}
    assert len(chat_server.requests) == 7 * ROWS


@pytest.mark.usefixtures("problems", "in_process")
def test_variants_are_in_names_columns_lineage_and_rows(chat_server: ChatServer, registry: Registry) -> None:
    chat_server.answer = answer
    run(chat_server, registry)
    found = ask(registry, "select name, step, variant from versions where step in ('rows', 'problems', 'shared') order by all")
    assert found == [
        ("demo/problems", "problems", ""),
        ("demo/shared.solved", "shared", ""),
        ("demo/shared.unsolved", "shared", ""),
        ("demo/teacher=a/rows", "rows", "teacher=a"),
        ("demo/teacher=b/rows", "rows", "teacher=b"),
    ]
    metrics = ask(registry, "select variant, value from metrics where metric = 'accuracy' and slice = '' order by all")
    assert metrics == [(f"temperature={t},teacher={m}", 1.0) for t in ("0.0", "0.5") for m in "ab"]
    [(count,)] = ask(registry, 'select count(*) from "demo/temperature=0.5,teacher=b/eval@1"')
    assert count == ROWS
    [(latest,)] = ask(registry, "select latest_version from datasets where name = 'demo/teacher=a/rows'")
    assert latest == 1
    roots = ask(registry, "select name, row from trace('demo/teacher=b/rows@1', 7)")
    assert ("demo/problems", 1) in roots
    columns = ("versions", "step_runs", "metrics")
    assert [ask(registry, f"describe {view}")[-1][0] for view in columns] == ["variant"] * 3


@pytest.mark.usefixtures("problems", "in_process")
def test_the_catalog_is_rebuilt_with_its_variants(chat_server: ChatServer, registry: Registry) -> None:
    chat_server.answer = answer
    run(chat_server, registry)
    queries = ["select name, version, variant from versions order by all", "select step, variant from step_runs order by all"]
    before = [ask(registry, query) for query in queries]
    (registry.root / "registry.duckdb").unlink()
    assert [ask(registry, query) for query in queries] == before
    assert registry.catalog.differences() == []


@pytest.mark.usefixtures("problems", "in_process")
def test_one_variant_can_be_chosen_added_and_forced(chat_server: ChatServer, registry: Registry) -> None:
    chat_server.answer = answer
    first = run(chat_server, registry, matrix=["temperature=0.0", "teacher=a"])
    assert "temperature=0.0,teacher=a/eval" in outcomes(first)
    assert len(chat_server.requests) == 3 * ROWS
    whole = outcomes(run(chat_server, registry))
    assert whole["shared"] == whole["teacher=a/cot"] == whole["temperature=0.0,teacher=a/eval"] == "hit"
    assert whole["teacher=b/cot"] == "ran"
    chosen = run(chat_server, registry, select="teacher=b/rows", force="teacher=b/cot")
    assert outcomes(chosen) == {"shared": "hit", "teacher=b/cot": "ran", "teacher=b/rows": "hit"}


@pytest.mark.usefixtures("problems")
def test_the_plan_and_the_commands_show_variants(chat_server: ChatServer, workdir: Path) -> None:
    Path("p.yaml").write_text(pipeline(chat_server))

    def engine(*words: str) -> str:
        done = CliRunner().invoke(app, ["--registry", ".engine", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "9 steps, 1 external dataset, in 4 variants of a matrix" in engine("check", "p.yaml")
    assert "teacher=a/cot" in engine("plan", "p.yaml")
    rows = json.loads(engine("plan", "p.yaml", "--json", "--select", "cot", "--matrix", "teacher=a,b,c"))
    assert [(row["step"], row["variant"], row["status"]) for row in rows] == [
        ("problems", "", "READ"),
        ("cot", "teacher=a", "RUN"),
        ("cot", "teacher=b", "RUN"),
        ("cot", "teacher=c", "RUN"),
    ]
    assert [row["step"] for row in json.loads(engine("plan", "p.yaml", "--json", "--select", "teacher=b/cot"))] == [
        "problems",
        "cot",
    ]
