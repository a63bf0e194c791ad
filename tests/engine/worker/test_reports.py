"""A report is a version like any other: shown in full, exported as a folder, its files kept and checked."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from engine.cli.run_view import print_run
from registry import Registry, Report
from tests.conftest import Cli
from tests.engine.run_pipelines import ask, run_text, words

PIPELINE = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {told: {op: told, in: words}}}"


@pytest.mark.usefixtures("in_process")
def test_a_report_is_shown_and_exported(registry: Registry, engine: Cli) -> None:
    words("one", "two")
    result = run_text(PIPELINE, registry)
    assert ask(registry, "select name, kind, type from datasets where kind = 'report'") == [("demo/told", "report", "Report")]

    [report] = registry.records("demo/told@1", Report)
    summary = StringIO()
    print_run(result, [report], ".engine", Console(file=summary, width=160))
    assert "# Words\n\n| words |\n|---|\n| 2 |\n" in summary.getvalue()

    shown = engine("show", "demo/told")
    assert shown.returncode == 0, shown.stderr
    assert "report of Report" in shown.stdout
    assert "| words |\n|---|\n| 2 |" in shown.stdout

    exported = engine("export", "demo/told", "--to", "hf", "out")
    assert exported.returncode == 0, exported.stderr
    assert Path("out/README.md").read_text() == "# Words\n\n| words |\n|---|\n| 2 |\n"
    assert Path("out/words.csv").read_text() == "one\ntwo\n"
