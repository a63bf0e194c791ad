"""What a command imports. Seconds depend on the machine; modules do not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from registry import Registry, StepRun
from tests.engine.run_pipelines import run_text
from tests.registry.catalog.test_catalog import commit, draft

pytestmark = pytest.mark.proof  # many processes

PIPELINES = Path(__file__).parents[3] / "pipelines"

HEAVY = [
    "aiohttp",
    "asyncio",
    "countryinfo",
    "datasets",
    "datasketch",
    "fsspec",
    "gguf",
    "httpx",
    "httpx2",
    "matplotlib",
    "mpmath",
    "multiprocessing",
    "openai",
    "openlineage",
    "pandas",
    "peft",
    "ray",
    "requests",
    "reasoning_gym",
    "scipy",
    "sentence_transformers",
    "sympy",
    "torch",
    "transformers",
    "trl",
]
"""Packages that are slow to import, or that only a run needs."""

ARROW = {"numpy", "pyarrow"}
"""PyArrow imports NumPy."""


def imported(*commands: list[str], codes: tuple[int, ...] = (0,), others: tuple[str, ...] = ()) -> set[str]:
    """The heavy packages, and others, that commands import when run one after another in one process, and end with one of these codes."""
    code = (
        "import sys\nfrom engine.cli import main\n"
        f"for command in {list(commands)!r}:\n"
        "    sys.argv = ['engine', *command]\n"
        "    try: main()\n"
        f"    except SystemExit as stop: assert (stop.code or 0) in {codes}, (command, stop.code)\n"
        "print('IMPORTED', *sys.modules)"
    )
    alone = {**os.environ, "PYTHONPATH": str(PIPELINES.parent)}  # without the tests' own package of operators
    done = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {*HEAVY, *ARROW, "duckdb", *others}.intersection(done.stdout.rpartition("IMPORTED")[2].split())


def test_help_and_version_import_no_data_library(workdir: Path) -> None:
    assert imported(["--help"], others=("pydantic", "yaml", "jinja2")) == set()
    assert imported(["--version"], ["run", "--help"]) == set()


def test_checking_the_shipped_pipelines_imports_no_heavy_package(registry: Registry) -> None:
    """All in one process, whose modules are those of all the checks."""
    checks = {path.stem: ["check", path.stem] for path in PIPELINES.glob("*.yaml")}
    assert checks
    codes = (0, 2)  # some name files that are not here
    imported(*checks.values(), codes=codes)  # generators may import their package once, to look at its tasks
    assert imported(*checks.values(), codes=codes) == set()
    registry.catalog.rebuild()
    del checks["lofreecp-predict"]  # it uses a calibration of the registry
    assert imported(*checks.values(), codes=codes) == set(), "nor DuckDB, although there is a registry"


def test_operators_and_the_schema_import_no_heavy_package(workdir: Path) -> None:
    assert imported(["ops"], ["ops", "train_sft"], ["schema"]) == set()


def test_checking_opens_the_registry_where_a_reference_needs_it(registry: Registry) -> None:
    Path("p.yaml").write_text(PIPELINE.replace("path: words.jsonl", 'registry: "q/words@1"'))
    commit(registry, draft(registry, "q/words", ["1 + 1?"], "words"))
    assert "duckdb" in imported(["check", "p.yaml"], codes=(2,))  # the version has other fields


PIPELINE = "{name: p, datasets: {words: {type: MathProblem, path: words.jsonl}}, steps: {once: {op: dedup, in: words}}}"


def test_the_timeline_of_a_run_imports_no_heavy_package(registry: Registry) -> None:
    run = registry.catalog.begin_run("p", {})
    registry.catalog.commit([], run, StepRun(step="once", op="dedup", outcome="failed"))
    registry.catalog.end_run(run, "failed")
    assert imported(["runs", run]) == {"duckdb", *ARROW}


@pytest.mark.parametrize("command", [["run", "p.yaml"], ["plan", "p.yaml"]])
def test_finished_steps_import_neither_arrow_nor_what_runs_them(
    registry: Registry, in_process: None, command: list[str]
) -> None:
    Path("words.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    steps = PIPELINE.replace(
        "once: {op: dedup, in: words}", "one: {op: to_questions, in: words}, two: {op: to_questions, in: words}"
    )
    assert run_text(steps, registry).state == "succeeded"
    assert imported(command) == {"duckdb"}


@pytest.mark.parametrize(("command", "needed"), [(["ls"], ()), (["runs"], ()), (["sql", "select 1"], ARROW)])
def test_reading_a_registry_imports_no_heavy_package(registry: Registry, command: list[str], needed: Collection[str]) -> None:
    registry.catalog.rebuild()
    assert imported(command, others=("pyarrow.parquet",)) == {"duckdb", *needed}


def test_reading_a_source_imports_arrow_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_CACHE", "empty-cache")
    Path("p.yaml").write_text(PIPELINE)
    Path("words.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    registry.catalog.rebuild()
    assert imported(["plan", "p.yaml"]) == {"duckdb", *ARROW}
    assert imported(["plan", "p.yaml"]) == {"duckdb"}


def test_planning_the_shipped_pipelines_again_imports_no_heavy_package(workdir: Path) -> None:
    plans = {path.stem: ["plan", path.stem] for path in PIPELINES.glob("*.yaml")}
    codes = (0, 2)  # some name files that are not here
    imported(*plans.values(), codes=codes)
    assert {name: imported(plan, codes=codes) for name, plan in plans.items()} == {name: set() for name in plans}


@pytest.mark.parametrize("command", [["ls"], ["sql", "from datasets"]])
def test_a_command_that_used_duckdb_exits_silently(registry: Registry, command: list[str]) -> None:
    """DuckDB's bindings report leaked objects on stderr if the interpreter ends before they are freed."""
    registry.catalog.rebuild()
    arguments = [sys.executable, "-m", "engine.cli", "--registry", str(registry.root), *command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
