"""Commands that are interrupted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine.cli import main
from engine.cli.commands import pipelines


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("Query interrupted")])
def test_an_interrupted_command_says_so(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipelines, "checked_pipeline", interrupted)
    monkeypatch.setattr(sys, "argv", ["engine", "check", "p.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "interrupted; finished work is kept\n")


def test_a_command_that_is_interrupted_while_it_is_imported_says_so() -> None:
    program = (
        "import builtins, sys\n"
        "from engine.cli import main\n"
        "load = builtins.__import__\n"
        "def interrupted(name, *given):\n"
        "    if name == 'typer': raise KeyboardInterrupt\n"
        "    return load(name, *given)\n"
        "builtins.__import__ = interrupted\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing was changed\n")
