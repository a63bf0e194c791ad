"""Commands that the engine proposes can be pasted into a shell."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from engine.cli.invocation import again, propose


def called(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", list(argv))


@pytest.fixture
def program(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script named `engine` in `.venv/bin`, which is not on the path."""
    script = workdir / ".venv" / "bin" / "engine"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return script


def test_a_program_outside_the_path_is_suggested_as_it_was_called(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called(monkeypatch, str(program), "run", "p.yaml")
    assert propose("ls") == ".venv/bin/engine ls"
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert propose("ls") == "engine ls"


def test_the_registry_option_is_repeated(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (["--registry", "my dir"], ["--registry=my dir"]):
        called(monkeypatch, str(program), *given, "run", "p.yaml")
        assert shlex.split(propose("head", "a/b")) == [".venv/bin/engine", *given, "head", "a/b"]
        assert shlex.split(again("--retry-rejects")) == [".venv/bin/engine", *given, "run", "p.yaml", "--retry-rejects"]
    called(monkeypatch, str(program), "run", "p.yaml", "--retry-rejects")
    assert again("--retry-rejects") == ".venv/bin/engine run p.yaml --retry-rejects"


def test_suggestions_work_for_modules_and_with_shell_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    called(monkeypatch, "/somewhere/engine/cli.py", "sql")
    assert propose("sql", "from trace('a@1', 0)").endswith(""" -m engine.cli sql "from trace('a@1', 0)\"""")
    words = ["it's", 'say "it\'s"', "$HOME's", "`ls`'", "a b", "back\\'slash", "new\n'line"]
    assert shlex.split(propose(*words))[3:] == words
