"""The registry says what is wrong; only the command line names commands and options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import registry.registry

ROOT = Path(registry.registry.__file__).parent
COMMANDS = re.compile(
    r"\bengine [a-z]+ --|`engine [a-z]|--[a-z]{2,}|\bengine (?:gc|fsck|rebuild|ls|sql|diff|run|plan|show|pin)\b"
)


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """All string constants except docstrings."""
    docstrings = {
        id(each.value) for node in ast.walk(tree) for each in ast.iter_child_nodes(node) if isinstance(each, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_names_a_command_or_an_option(file: Path) -> None:
    found = texts(ast.parse(file.read_text()))
    assert [f"line {text.lineno}: {text.value}" for text in found if COMMANDS.search(str(text.value))] == []
