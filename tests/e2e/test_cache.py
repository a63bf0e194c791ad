"""The table of `benchmarks/cache_correctness.py`: what each edit costs, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.cache_correctness import (
    EDITS,
    LARGE_EDITS,
    ROWS,
    Edit,
    SecondRun,
    calls_after_a_kill,
    engine_run,
    environment,
    first_run,
    large_edits,
    second_run,
)
from engine.cli.progress import PlainProgress
from engine.cli.run_view import run_document
from engine.pipeline.check import check
from engine.running.run import run
from registry import Registry
from tests.chat_server import ChatServer
from tests.conftest import Cli
from tests.in_process import InProcess

ROOT = Path(__file__).parents[2]
SAMPLE = {"nothing", "append 10 rows", "change the second of two prompts", "change temperature", "attempts 1 to 3"} | {
    "edit a helper of the verifier",
    "edit a comment",
}
"""The edits that every test run tries; `make soak` and the benchmark try the whole table."""


def in_sample(edit: Edit) -> bool:
    return edit.name in SAMPLE


DATA = [pytest.param(edit, id=edit.name, marks=() if in_sample(edit) else pytest.mark.soak) for edit in EDITS if edit.on_data]
CODE = [edit for edit in EDITS if not edit.on_data]


def run_here(folder: Path) -> dict[str, Any]:
    """Run with workers in this process; return the summary."""
    registry = Registry(folder / ".engine")
    if registry.exists:
        with registry.look_ups() as look_ups:
            pipeline = check(folder / "p.yaml", None, look_ups)
    else:
        pipeline = check(folder / "p.yaml")
    result = run(pipeline, registry, PlainProgress(Console(quiet=True)), select=set(), force=set(), cluster=InProcess())
    assert result.state == "succeeded", result.error
    return run_document(result)


def judged(edit: Edit, second: SecondRun) -> None:
    """Compare the results with the table."""
    steps = second.summary["steps"]
    assert second.calls == edit.calls
    assert tuple(step["outcome"] for step in steps) == edit.outcomes
    assert steps[-1]["rows_out"] == edit.rows_out
    assert edit.partitions is None or second.partitions <= edit.partitions


@pytest.mark.parametrize("edit", DATA)
def test_editing_pipeline_or_data_costs_exactly_what_it_must(workdir: Path, chat_server: ChatServer, edit: Edit) -> None:
    work = first_run(edit, workdir, chat_server, run_here)
    judged(edit, second_run(edit, work, workdir, chat_server, run_here))


@pytest.mark.parametrize("edit", large_edits(480, 10), ids=lambda edit: edit.name)
def test_editing_few_of_many_rows_costs_calls_for_the_few(workdir: Path, chat_server: ChatServer, edit: Edit) -> None:
    work = first_run(edit, workdir, chat_server, run_here)
    judged(edit, second_run(edit, work, workdir, chat_server, run_here))


@pytest.mark.parametrize(
    "edits",
    [
        pytest.param([edit for edit in CODE if in_sample(edit)], id="sample"),
        pytest.param([edit for edit in CODE if not in_sample(edit)], id="others", marks=pytest.mark.soak),
    ],
)
def test_editing_code_costs_no_calls_and_the_plan_shows_what_changed(
    workdir: Path, chat_server: ChatServer, edits: list[Edit], engine: Cli
) -> None:
    """Each edit is made to the code of the first run."""
    explained = ""

    def run_edited(folder: Path) -> dict[str, Any]:
        nonlocal explained
        explained = engine("plan", "p.yaml", "--why", env=environment(folder)).stdout
        return engine_run(folder)

    work = first_run(edits[0], workdir, chat_server, engine_run)
    for edit in edits:
        judged(edit, second_run(edit, work, workdir, chat_server, run_edited))
        assert ("+    return " in explained) == (edit.outcomes == ("ran",))


# `make test` kills a run in test_kill.py.
@pytest.mark.soak
def test_after_a_kill_halfway_only_the_missing_half_costs(workdir: Path, chat_server: ChatServer) -> None:
    second = calls_after_a_kill(workdir, chat_server)
    assert second.calls == ROWS // 2
    assert [step["rows_out"] for step in second.summary["steps"]] == [ROWS, ROWS]


def test_the_documents_say_how_many_edits_there_are() -> None:
    killed = 1
    count = len(EDITS) + len(LARGE_EDITS) + killed
    for page in ("README.md", "docs/benchmarks.md"):
        assert f"{count} edits" in (ROOT / page).read_text()
