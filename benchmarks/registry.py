"""What does the registry cost beside other table formats? `python -m benchmarks.registry [--rows 200000] [--commits 200]`

The same rows, one format after the other, each time in a fresh process and folder: stored as a new dataset; stored with a tenth more as
its next version; then small versions of twenty more datasets, one after another, and a listing of all versions of all datasets. Prints
medians of five runs for this registry, DuckLake, Delta and Lance (these three from PyPI, in a virtual environment that is made in the
temporary folder when it is missing): time, CPU time (which a busy machine does not stretch), and the ratio to this registry's time. Takes
ten minutes on two CPUs.

They do not do the same. This registry makes every file durable (fsync of the file and its folder) before a version is visible, compresses
with zstd (half of its CPU of an ingest, and two thirds of the bytes of the others, which take snappy), writes a CRC into every page, ends
objects where their rows say, names them by their SHA-256, hashes the rows (an append continues the hash of the version before, whose last
objects it reads, verifies and stores again with the new rows), and writes a manifest and a run's journal. A small version is a whole run:
begun, committed, ended, one transaction each, which are most of its CPU. `python -m benchmarks.stages` shows where the CPU goes. DuckLake (fsync of its catalog, not of its data), Delta and Lance (no fsync at all,
as strace shows) can lose a version when power fails; they keep no checksum of what they store and no hash of the rows. None of them keeps
lineage or runs. DuckLake's catalog stays open from the first version to the listing (opening it takes longer than a small version); this
registry opens its own for each transaction, so that other processes get their turn, in a DuckDB that the process started once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.lakes import COMMIT_ROWS, LAKES

PACKAGES = (
    "duckdb==1.5.5",
    "duckdb-extension-ducklake==1.5.5",
    "deltalake==1.6.6",
    "pylance==14.0.2",
    f"pyarrow=={pa.__version__}",
)


def environment(packages: tuple[str, ...]) -> Path:
    """The Python of a virtual environment with these packages; it is made once."""
    name = hashlib.sha256(repr((packages, platform.python_version())).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir(), f"engine-benchmarks-{name}")
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages], check=True)
        complete.touch()
    return python


def measure(lake: str, python: str | Path, rows: int, commits: int) -> dict[str, Any]:
    """What benchmarks.lakes measures, in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "benchmarks.lakes", lake, folder, str(rows), str(commits)]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{lake}: {done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def medians(runs: list[list[float]]) -> tuple[float, float]:
    """The medians of time and of CPU time, in milliseconds."""
    wall, cpu = (statistics.median(each) * 1e3 for each in zip(*runs, strict=True))
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--commits", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    peers = environment(PACKAGES)
    runs: dict[str, list[dict[str, Any]]] = {lake: [] for lake in LAKES}
    for _ in range(options.runs):
        for lake, made in runs.items():
            made.append(measure(lake, sys.executable if lake == "ours" else peers, options.rows, options.commits))

    title = f"medians of {options.runs} runs, {os.cpu_count()} CPUs: ms, ms of CPU (times as long as ours)"
    table = Table("", *LAKES, title=title, title_justify="left")
    kinds = {
        "ingest": f"ingest of {options.rows:,} rows",
        "append": f"append of {options.rows // 10:,} rows",
        "commit": f"version of {COMMIT_ROWS} rows more",
        "listing": f"list {options.commits + 2} versions",
    }
    for kind, label in kinds.items():
        middle = {lake: medians([run[kind] for run in made]) for lake, made in runs.items()}
        ours, _ = middle["ours"]
        table.add_row(label, *(f"{wall:,.1f}, {cpu:,.1f} ({wall / ours:.2f})" for wall, cpu in middle.values()))
    table.add_row("on disk after the append, MB", *(f"{made[0]['bytes'] / 1e6:,.1f}" for made in runs.values()))
    Console(width=140).print(table)
    Console().print(f"beside {', '.join(PACKAGES)}", highlight=False)


if __name__ == "__main__":
    main()
