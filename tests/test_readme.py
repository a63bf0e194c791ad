"""What README shows works: every command line in it is one that `engine` understands, every pipeline one that it reads."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from engine.cli.app import app
from engine.errors import PipelineError
from engine.pipeline.check import check

README = (Path(__file__).parents[1] / "README.md").read_text()
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(README) if kind == language]


def command_lines() -> list[str]:
    """The lines of shell blocks that call the engine, without comments."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("engine ")]


def test_there_is_something_to_test() -> None:
    assert len(command_lines()) > 20
    assert len(blocks("yaml")) >= 3


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_is_understood(line: str) -> None:
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
    group: Any = typer.main.get_command(app)
    with group.make_context("engine", list(words)) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_piece_of_yaml_is_right(text: str, workdir: Path) -> None:
    """Pieces are put into a pipeline that has the rest; files need not be there, everything else must be as it should."""
    piece = yaml.safe_load(text)
    for model in piece.get("models", {}).values():
        model.pop("api_key_env", None)
    whole = {"name": "piece", "steps": {"rows": {"op": "to_sft", "in": "problems"}}, **piece}
    for name, kind in (("problems", "MathSolution"), ("rows", "SFTExample"), ("pairs", "PreferencePair")):
        if name not in whole["steps"] and f"in: {name}" in yaml.safe_dump(whole["steps"]):
            whole.setdefault("datasets", {}).setdefault(name, {"type": kind, "path": "nowhere.jsonl"})
    Path("p.yaml").write_text(yaml.safe_dump(whole))
    try:
        check(Path("p.yaml"))
    except PipelineError as error:
        beside = [str(problem) for problem in error.problems if "there is no file" not in problem.message]
        assert not [each for each in beside if "Qwen/" not in each], beside
