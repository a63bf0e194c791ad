"""The command line as users see it: its output, on stdout and stderr, and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from registry import Registry
from tests.chat_server import ChatServer, error
from tests.conftest import Cli
from tests.e2e.test_kill import solve
from tests.engine.run_pipelines import run_text
from tests.in_process import InProcess

PIPELINE = """\
name: demo
params: {limit: 4}
models:
  teacher: %s
datasets:
  problems: {type: MathProblem, path: problems.jsonl, limit: "${params.limit}"}
steps:
  cot: {op: regenerate_cot, in: problems}
  rows: {op: to_sft, in: cot.solved}
"""


def write_project(folder: Path, server: ChatServer) -> None:
    """A pipeline and its data."""
    server.answer = solve
    problems = [{"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(6)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    (folder / "p.yaml").write_text(PIPELINE % server.model())


@pytest.fixture
def project(workdir: Path, chat_server: ChatServer) -> Path:
    """A folder with a pipeline and its data."""
    write_project(workdir, chat_server)
    return workdir


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has run."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch, ChatServer() as server:
        write_project(folder, server)
        patch.chdir(folder)
        result = run_text(Path("p.yaml").read_text(), Registry(folder / ".engine"), cluster=InProcess())
        assert result.state == "succeeded", result.error
    return folder


@pytest.fixture
def finished_project(workdir: Path, run_once: Path) -> Path:
    """A copy of a project that has run; its server is gone."""
    shutil.copytree(run_once, workdir, dirs_exist_ok=True)
    return workdir


@pytest.mark.timeout(400)
def test_the_main_commands_work_one_after_the_other(project: Path, engine: Cli, chat_server: ChatServer) -> None:
    assert engine("check", "p.yaml").stdout == "p.yaml is fine: 2 steps, 1 external dataset.\n"
    planned = json.loads(engine("plan", "p.yaml", "--json").stdout)
    assert [(step["step"], step["status"]) for step in planned] == [("problems", "READ"), ("cot", "RUN"), ("rows", "WAIT")]
    assert planned[1]["max_calls"] == 4
    assert not (project / ".engine").exists(), "a plan before the first run leaves nothing behind"
    assert not chat_server.requests

    ran = engine("run", "p.yaml")
    assert ran.returncode == 0, ran.stderr
    for words in ("finished", "2 solved, 2 unsolved", "4 new", "demo/rows@1", "Try next:"):
        assert words in ran.stdout
    assert "cot: regenerate_cot on 4 rows" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "ray" not in ran.stderr.lower()
    # Each of the suggested commands works.
    suggested = [line.strip() for line in ran.stdout.partition("Try next:")[2].splitlines() if line.strip()]
    assert len(suggested) == 3
    for line in suggested:
        done = subprocess.run(line, shell=True, cwd=project, capture_output=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout

    again = json.loads(engine("run", "p.yaml", "--json").stdout)
    assert again["state"] == "succeeded"
    assert [step["outcome"] for step in again["steps"]] == ["hit", "hit"]
    more = json.loads(engine("run", "p.yaml", "--set", "limit=6", "--latest", "--json").stdout)
    assert more["steps"][0]["calls"] == 2
    assert more["steps"][0]["calls_reused"] == 4
    assert len(chat_server.requests) == 6

    why = engine("plan", "p.yaml", "--set", "limit=3", "--why").stdout
    assert "cot: input problem: its rows changed" in why

    listed = {row["name"]: row for row in json.loads(engine("ls", "--json").stdout)}
    assert listed["demo/rows"]["latest_version"] == 2
    assert listed["demo/problems"]["type"] == "MathProblem"
    shown = engine("show", "demo/rows@1").stdout
    assert "dataset of SFTExample, 2 rows" in shown
    assert "from demo/cot.solved@1" in shown
    head = engine("head", "demo/rows", "-n", "1").stdout
    assert "demo/rows@2: 1 of 4 rows" in head
    assert "What is 1 + 1?" in head
    runs = json.loads(engine("runs", "--json").stdout)
    assert [run["state"] for run in runs] == ["succeeded"] * 3
    assert engine("rebuild").stdout == "rebuilt from 8 manifests\n"
    assert json.loads(engine("runs", "--json").stdout) == runs


@pytest.mark.usefixtures("finished_project")
def test_a_trace_reaches_the_seed_problem_and_the_call(engine: Cli) -> None:
    query = """
        select t.depth, t.name, t.row, c.prompt, c.response
        from trace('demo/rows@1', 1) t left join llm_calls c on list_contains(t.call_ids, c.call_id)
        order by t.depth
    """
    rows = json.loads(engine("sql", query, "--json").stdout)
    assert [(row["depth"], row["name"], row["row"]) for row in rows] == [
        (0, "demo/rows", 1),
        (1, "demo/cot.solved", 1),
        (2, "demo/problems", 2),
    ]
    assert "What is 2 + 1?" in rows[1]["prompt"]
    assert rows[1]["response"] == "It is \\boxed{3}."
    seed = json.loads(engine("sql", 'select * from "demo/problems@1" where row = 2', "--json").stdout)
    assert seed == [{"row": 2, "question": "What is 2 + 1?", "answer": "3", "source": None, "id": None}]


@pytest.mark.usefixtures("finished_project")
def test_sql_formats(engine: Cli) -> None:
    query = 'select row, question, answer from "demo/problems" order by row'
    rows = list(csv.reader(io.StringIO(engine("sql", query, "--format", "csv").stdout)))
    assert rows[0] == ["row", "question", "answer"]
    assert rows[1] == ["0", "What is 0 + 1?", "1"]
    assert json.loads(engine("sql", query, "--format", "json").stdout)[3] == {
        "row": 3,
        "question": "What is 3 + 1?",
        "answer": "4",
    }
    assert json.loads(engine("sql", "select 1 a, 2 a", "--json").stdout) == [{"a": 1, "a_1": 2}]
    assert "(4 rows)" in engine("sql", query).stdout
    refused = engine("sql", "drop view datasets")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "read-only" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "nothere.yaml"], 2, "there is no pipeline file nothere.yaml"),
        (["run", "quickstrat"], 2, "did you mean 'quickstart'?"),
        (["run", "p.yaml", "--set", "lmit=3"], 2, "did you mean 'limit'?"),
        (["run", "p.yaml", "--select", "cott"], 2, "did you mean 'cot'?"),
        (["run", "p.yaml", "--frce", "cot"], 2, "--frce"),
        (["rnu"], 2, "rnu"),
        (["ls"], 2, "there is no registry"),
        (["ops", "to_sfd"], 2, "did you mean 'to_sft'?"),
        (["run", "bad.yaml"], 2, "3 problems"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(
    project: Path, engine: Cli, arguments: list[str], code: int, words: str
) -> None:
    (project / "bad.yaml").write_text("name: x\nsteps:\n  a: {op: nope, in: b, wiht: 1}\n")
    done = engine(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if "bad.yaml" in arguments:
        assert "bad.yaml:3:11: no operator named 'nope'" in done.stderr
        assert "bad.yaml:3:21: no dataset or step 'b'" in done.stderr
        assert "bad.yaml:3:24: unknown key 'wiht'" in done.stderr
    assert not (project / ".engine").exists()


def test_a_failed_step_exits_with_1_and_shows_the_traceback_only_with_debug(
    project: Path, engine: Cli, chat_server: ChatServer
) -> None:
    chat_server.answer = lambda prompt, seen: error(404, "The model `test-model` does not exist")
    failed = engine("run", "p.yaml")
    assert failed.returncode == 1
    assert "step 'cot' failed" in failed.stdout
    assert "The model `test-model` does not exist" in failed.stdout
    assert "check base_url and the model name" in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr
    assert len(chat_server.requests) <= 4
    chat_server.answer = solve
    # The next run continues; here, with its workers in this process.
    again = run_text(Path("p.yaml").read_text(), Registry(project / ".engine"), cluster=InProcess())
    assert again.state == "succeeded", again.error


def test_operators_are_documented(engine: Cli) -> None:
    listed = engine("ops").stdout
    assert "regenerate_cot" in listed
    page = engine("ops", "regenerate_cot").stdout
    for words in (
        "problem: MathProblem",
        "solved: MathSolution",
        "attempts",
        "integer >= 1",
        "arXiv 2410.01504",
        "model teacher",
    ):
        assert words in page
    assert json.loads(engine("ops", "train_sft", "--json").stdout)["outputs"] == {"model": "Model"}


def test_the_schema_accepts_the_pipelines_and_rejects_mistakes(engine: Cli) -> None:
    schema = json.loads(engine("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    shipped = sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml"))
    assert shipped
    for pipeline in shipped:
        assert list(validator.iter_errors(yaml.safe_load(pipeline.read_text()))) == []
    wrong = yaml.safe_load(PIPELINE % "{provider: openai, model: m}")
    wrong["steps"]["cot"]["with"] = {"attemps": 3}
    assert list(validator.iter_errors(wrong))


@pytest.mark.parametrize("arguments", [["plan", "p.yaml"], ["sql", "select 1"], ["run", "p.yaml"]])
def test_commands_on_finished_work_import_no_heavy_package(finished_project: Path, arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['engine', *sys.argv[1:]]\n"
        "from engine.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: print('exit', stop.code, file=sys.stderr)\n"
        "heavy = {'ray', 'torch', 'transformers', 'trl', 'datasets', 'reasoning_gym', 'pandas', 'matplotlib', 'aiohttp'} & set(sys.modules)\n"
        "print('heavy', sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=finished_project, capture_output=True, text=True, check=False
    )
    assert "exit 0" in done.stderr, done.stderr
    assert "heavy []" in done.stderr
