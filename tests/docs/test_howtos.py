"""The how-to guides, from the first file to the last command; the examples for authors of operators."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from registry import Registry
from tests.docs.pages import ROOT, blocks, engine_lines, named_files
from tests.engine.run_pipelines import ask, run_text
from tests.in_process import InProcess

OWN_DATA = "docs/howto/own-data.md"
OWN_OPERATOR = "docs/howto/own-operator.md"
REVIEW = "docs/howto/review.md"
WRITING = "docs/writing-operators.md"
PYTHON = "docs/python.md"


def write(page: str) -> dict[str, str]:
    """Write the files that a page shows."""
    files = named_files(page)
    for name, text in files.items():
        Path(name).write_text(text)
    return files


def test_own_data(registry: Registry, in_process: None) -> None:
    files = write(OWN_DATA)
    assert {"train.jsonl", "test.jsonl", "mydata.yaml"} <= files.keys()
    for _, line in engine_lines(OWN_DATA):
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "run":
            assert run_text(files["mydata.yaml"], registry).state == "succeeded"
            continue
        result = CliRunner().invoke(app, ["--registry", ".engine", *words], catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    assert ask(registry, 'select question from "mydata/clean.clean"') == [("What is 3 + 4?",), ("What is 12 * 12?",)]
    assert ask(registry, 'select text, kind from "mydata/unique.dropped"') == [("what is 3 + 4 ?", "exact")]
    assert list(Path("out").rglob("*.jsonl"))


def test_review(registry: Registry, in_process: None) -> None:
    files = write(REVIEW)
    states = []
    for block in blocks("", REVIEW):
        if block.language == "python":
            exec(block.text, {})
        if block.language != "sh":
            continue
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)[1:]
            if words[:1] == ["run"]:
                states.append(run_text(files["trivia.yaml"], registry).state)
                continue
            result = CliRunner().invoke(app, ["--registry", ".engine", *words], catch_exceptions=False)
            assert result.exit_code == 0, (line, result.output)
    assert states == ["waiting", "succeeded"]
    made = ask(registry, 'select answer, difficulty from "trivia/checked" order by row')
    assert made == [("Canberra.", "easy"), ("It is 56.", "easy")]
    assert ask(registry, 'select count(*) from "trivia/rows"') == [(2,)]
    assert ask(registry, "select reason from rejects") == [("George Eliot wrote it",)]


def installed(name: str, text: str) -> dict[str, str]:
    """An installed package of operators, in the current folder: a module and its entry point. Gives the environment to run in."""
    Path(f"{name}.py").write_text(text)
    info = Path(f"{name}-0.1.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[engine.operators]\n{name} = {name}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ["PYTHONPATH"]])}


def engine(environment: dict[str, str], *arguments: str) -> str:
    """What a command prints, in a process of its own, because operators are looked up once in a process."""
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_operator(workdir: Path) -> None:
    files = write(OWN_OPERATOR)
    engine({**os.environ}, "check", "tickets.yaml")
    # As a package for several pipelines.
    environment = installed("my_ops", files["my_ops.py"])
    assert "Mark tickets" in engine(environment, "ops", "flag")
    assert "RUN" in engine(environment, "plan", "tickets.yaml", "--why")
    load(Path("my_ops.py"))
    run_tests(load(Path("test_my_ops.py")), 1)


def load(file: Path) -> ModuleType:
    """A module from a file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def run_tests(module: ModuleType, number: int) -> None:
    """Run the tests of a module, and check that there are this many."""
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == number
    for test in tests:
        test()


def test_python(registry: Registry, in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.running.run.Cluster", lambda _: InProcess())
    assert {"problems.jsonl", "sums.yaml"} <= write(PYTHON).keys()
    names: dict[str, object] = {}
    examples = blocks("python", PYTHON)
    assert len(examples) >= 5
    for block in examples:
        exec(block.text, names)


def test_the_examples_for_authors(workdir: Path) -> None:
    text = "\n\n".join(block.text for block in blocks("python", WRITING) if not block.file)
    environment = installed("author_ops", text)
    load(Path("author_ops.py"))
    write(WRITING)
    run_tests(load(Path("test_author_ops.py")), 3)
    listed = engine(environment, "ops")
    assert all(name in listed for name in ("shorter_than", "upper", "longest", "unseen", "rate", "vote", "pair"))
    [step] = blocks("yaml", WRITING)
    data = "datasets: {problems: {type: MathProblem, path: p.jsonl}}\n"
    Path("p.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    Path("p.yaml").write_text(f"name: p\n{data}{step.text}")
    engine(environment, "check", "p.yaml")


def test_the_mathematics_works_as_shown() -> None:
    [block] = blocks("python", "docs/methods/lofreecp.md")
    names: dict[str, object] = {}
    exec(block.text, names)
    call, _, shown = block.text.splitlines()[-1].partition("  # ")
    assert repr(eval(call, names)) == shown


@pytest.mark.parametrize("name", ["quickstart", "personamath-mini", "dialectical-mini", "lofreecp-mini"])
def test_pipelines_named_by_the_docs_are_shipped(name: str) -> None:
    assert (ROOT / "pipelines" / f"{name}.yaml").exists()
