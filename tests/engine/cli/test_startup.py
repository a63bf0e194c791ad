"""What a command imports. Seconds depend on the machine; modules do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from registry import Registry

PIPELINES = sorted(path.stem for path in (Path(__file__).parents[3] / "pipelines").glob("*.yaml"))

HEAVY = [
    "aiohttp",
    "countryinfo",
    "datasets",
    "datasketch",
    "fsspec",
    "gguf",
    "matplotlib",
    "mpmath",
    "openai",
    "openlineage",
    "pandas",
    "peft",
    "ray",
    "reasoning_gym",
    "scipy",
    "sentence_transformers",
    "sympy",
    "tenacity",
    "torch",
    "transformers",
    "trl",
]
"""Packages that are slow to import, or that only a run needs."""


def imported(*commands: list[str]) -> set[str]:
    """The heavy packages that commands import when run one after another in one process."""
    code = (
        "import sys\nfrom engine.cli import main\n"
        f"for command in {list(commands)!r}:\n"
        "    sys.argv = ['engine', *command]\n"
        "    try: main()\n"
        "    except SystemExit as stop: assert stop.code in (0, 2), (command, stop.code)\n"
        "print('IMPORTED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {*HEAVY, "duckdb", "pyarrow"}.intersection(done.stdout.rpartition("IMPORTED")[2].split())


def test_reading_a_registry_leaves_nothing_on_stderr(registry: Registry) -> None:
    with registry.session() as session:
        session.ask("from datasets")
    command = [sys.executable, "-m", "engine.cli", "--registry", str(registry.root), "sql", "from datasets"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "", "such as DuckDB's report of leaked objects"


def test_help_and_version_import_no_data_library(workdir: Path) -> None:
    assert imported(["--help"], ["--version"], ["run", "--help"]) == set()


def test_checking_the_shipped_pipelines_imports_no_heavy_package(workdir: Path) -> None:
    checks = [["check", name] for name in PIPELINES]
    imported(*checks)  # generators may import their package once, to look at its tasks
    assert imported(*checks) == {"pyarrow"}, "and no DuckDB, because there is no registry"


def test_operators_and_the_schema_import_no_heavy_package(workdir: Path) -> None:
    assert imported(["ops"], ["ops", "train_sft"], ["schema"]) == {"pyarrow"}


@pytest.mark.parametrize("command", [["ls"], ["runs"], ["sql", "select 1"], ["check", "lofreecp"], ["plan", "lofreecp"]])
def test_reading_a_registry_imports_no_heavy_package(registry: Registry, command: list[str]) -> None:
    registry.catalog.rebuild()
    assert imported(command) == {"duckdb", "pyarrow"}


def test_a_command_that_used_duckdb_exits_silently(registry: Registry) -> None:
    """DuckDB's bindings report leaked objects on stderr when the interpreter ends before it freed them."""
    registry.catalog.rebuild()
    done = subprocess.run([sys.executable, "-m", "engine.cli", "ls"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
