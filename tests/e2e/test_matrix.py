"""Runs of a matrix: shared steps run once and are paid for once, variants have their own names, and SQL has columns for them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from engine.comparison.compare import compare
from engine.running.result import RunResult
from registry import Registry
from tests.chat_server import ChatServer, completion
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
def test_shared_steps_run_once_and_are_paid_for_once(chat_server: ChatServer, registry: Registry) -> None:
    chat_server.answer = answer
    result = run(chat_server, registry)
    # Both teachers give the same answers, so one of the two `rows` finds the rows of the other.
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
    columns = {
        view: [column for column, *_ in ask(registry, f"describe {view}")] for view in ("versions", "step_runs", "metrics")
    }
    assert columns["versions"][-1] == columns["metrics"][-1] == "variant"
    assert columns["step_runs"][-5:] == ["variant", "filtered", "unused", "why", "notes"]  # new ones were added at the end


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


@pytest.mark.usefixtures("problems", "in_process")
def test_variants_are_compared_in_pairs(chat_server: ChatServer, registry: Registry, workdir: Path) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any] | None:
        """`b` is wrong about every problem but the last one."""
        prompt = body["messages"][-1]["content"]
        wrong = body["model"] == "b" and f"What is {ROWS - 1} " not in prompt
        return completion("It is \\boxed{77}." if wrong else answer(prompt, 0))

    chat_server.reply = reply
    run(chat_server, registry)

    def engine(*words: str) -> str:
        done = CliRunner().invoke(app, ["--registry", ".engine", "compare", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    first, second = (f"demo/temperature=0.5,teacher={name}" for name in "ab")
    found = json.loads(engine(first, second, "--json"))
    assert found["sides"] == [first, second]
    [part] = [each for each in found["parts"] if each["name"] == "eval"]
    assert part["versions"] == [f"{first}/eval@1", f"{second}/eval@1"]
    [accuracy] = [each for each in part["metrics"] if each["metric"] == "accuracy"]
    assert [round(each["value"], 3) for each in accuracy["values"]] == [1.0, 0.167]
    assert accuracy["values"][0]["low"] is not None
    [result] = part["results"]
    assert result["field"] == "verdict=correct"
    assert (result["difference"]["clusters"], result["difference"]["lower"], result["difference"]["higher"]) == (
        ROWS,
        ROWS - 1,
        0,
    )
    assert not result["shown"], "five of six is too few"
    assert "no difference is shown" in engine(f"{first}/eval@1", f"{second}/eval@1")
    one_field = json.loads(engine(first, second, "--field", "stage", "--json"))
    assert [each["name"] for each in one_field["parts"] if each["results"]] == ["cot.solved", "eval"], "others lack the field"
    # By the name of the pipeline: all four variants, with Holm's correction.
    everything = engine("demo", "--plot", "all.png", "--report", "all.md")
    assert "adjusted for 3 comparisons with A by Holm" in everything
    assert Path("all.png").read_bytes().startswith(b"\x89PNG")
    assert "![differences](all.png)" in Path("all.md").read_text()


@pytest.mark.usefixtures("problems", "in_process")
def test_runs_are_compared_by_what_they_used(chat_server: ChatServer, registry: Registry, workdir: Path) -> None:
    chat_server.answer = answer
    first = run_text(pipeline(chat_server, ""), registry)
    second = run_text(pipeline(chat_server, ""), registry, settings=["temperature=0.1"])
    found = compare(registry, [first.run_id, second.run_id])
    assert set(found.same) == {"shared.solved", "shared.unsolved", "cot.solved", "cot.unsolved", "rows"}
    [part] = found.parts
    assert part.versions == ("demo/eval@1", "demo/eval@2")
    [result] = part.results
    assert (result.difference.value, result.difference.p, result.shown) == (0.0, 1.0, False)


@pytest.mark.usefixtures("problems", "in_process")
def test_what_cannot_be_compared_is_reported(chat_server: ChatServer, registry: Registry, workdir: Path) -> None:
    chat_server.answer = answer
    run(chat_server, registry)

    def problem(*words: str) -> str:
        done = CliRunner().invoke(app, ["--registry", ".engine", "compare", *words])
        assert done.exception is not None
        return str(done.exception)

    assert "there is nothing to compare demo/shared.solved with" in problem("demo/shared.solved")
    assert "has no variant 'teacher=c'" in problem("demo/teacher=c", "demo/teacher=a")
    both = ("demo/teacher=a/cot.solved", "demo/teacher=b/cot.solved")
    assert "has no field 'verdikt'\n    did you mean 'verdict'?" in problem(*both, "--field", "verdikt=correct")
    assert "name a value, for example --field verdict=correct" in problem(*both, "--field", "verdict")
    assert "has no field 'x'" in problem(*both, "--by", "x")
    assert "there is no run" in problem("20200101-000000-abcdef", both[0])
    assert "charts are PNG files" in problem(*both, "--plot", "x.pdf")
