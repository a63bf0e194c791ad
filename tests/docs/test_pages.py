"""Everything that the documentation shows works: commands parse, YAML passes the check, queries run, links have targets."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from docs.generate.__main__ import stale
from engine.cli.app import app
from engine.errors import PipelineError
from engine.pipeline.check import check
from tests.docs.pages import PAGES, ROOT, Block, blocks, engine_lines, shell_lines


def test_there_is_something_to_test() -> None:
    assert len(PAGES) > 20
    assert len(engine_lines()) > 50
    assert len(blocks("yaml")) >= 8


def test_generated_pages_are_up_to_date() -> None:
    assert not stale(), "run `make pages`"


def test_the_readme_is_a_front_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("line", sorted({line for _, line in engine_lines()}))
def test_a_command_parses(line: str) -> None:
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
    group: Any = typer.main.get_command(app)
    with group.make_context("engine", list(words)) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        command.make_context(name, rest, parent=context)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text() for page in PAGES)
    named = {line.split()[1] for _, line in shell_lines() if line.startswith("make ")} | set(
        re.findall(r"`make ([a-z]+)`", text)
    )
    assert named <= targets


def test_benchmarks_exist() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"python -m benchmarks\.([a-z_]+)", text))
    files = {file.stem: file.read_text() for file in (ROOT / "benchmarks").glob("*.py")}
    assert named <= files.keys()
    started_by_others = {"endpoint", "teacher", "lakes", "serving_offline"}
    assert {name for name, code in files.items() if "__main__" in code} - started_by_others <= named


@pytest.mark.training  # some import torch
@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda file: str(file.stem))
def test_a_benchmark_fits_the_code(file: Path) -> None:
    """It imports; `make lint` checks its types. The benchmarks themselves take too long for a test."""
    importlib.import_module(f"benchmarks.{file.stem}")


def _paths(text: str) -> set[str]:
    return set(re.findall(r"`((?:engine|registry|operators|pipelines|tests|docs)/[\w/.-]+\.\w+)`", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    missing = [path for path in _paths(text) if not (ROOT / path).exists()]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            missing.append(target)
    assert not missing


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#{1,3} (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


OWN_OPERATORS = {"docs/writing-operators.md", "docs/howto/own-operator.md"}
"""Pages whose YAML uses operators of the page; test_howtos.py checks it."""


@pytest.mark.parametrize(
    "block", [each for each in blocks("yaml") if each.page not in OWN_OPERATORS], ids=lambda block: block.page
)
def test_a_piece_of_yaml_checks(block: Block, workdir: Path) -> None:
    """Pieces are completed into pipelines. Files need not exist; everything else must be right."""
    piece = yaml.safe_load(block.text)
    for model in piece.get("models", {}).values():
        model.pop("api_key_env", None)
    whole = {"name": "piece", "steps": {"rows": {"op": "to_sft", "in": "problems"}}, **piece}
    teacher = {"provider": "openai", "model": "m"}
    if any(step["op"] == "regenerate_cot" for step in whole["steps"].values()):
        whole.setdefault("models", {}).setdefault("teacher", teacher)
    for name, kind in (("problems", "MathSolution"), ("rows", "SFTExample"), ("pairs", "PreferencePair")):
        if name not in whole["steps"] and f"in: {name}" in yaml.safe_dump(whole["steps"]):
            whole.setdefault("datasets", {}).setdefault(name, {"type": kind, "path": "nowhere.jsonl"})
    Path("gone.jsonl").touch()
    for file in piece.get("operators", []):
        Path(file if file.endswith(".py") else f"{file}.py").touch()
    whole["operators"] = [file if file.endswith(".py") else f"{file}.py" for file in piece.get("operators", [])]
    Path("p.yaml").write_text(yaml.safe_dump(whole))
    try:
        check(Path("p.yaml"))
    except PipelineError as error:
        others = [str(problem) for problem in error.problems if "there is no file" not in problem.message]
        assert not [each for each in others if "Qwen/" not in each], others
