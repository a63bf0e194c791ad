"""What do small things cost? `python -m benchmarks.small_runs [--steps 100] [--planned 200]`

Prints CPU (user and system, of all processes) and time of whole commands, and their CPU as multiples of
`python -c "import pyarrow, duckdb"` in the same run, which a slow or busy machine changes as well:

* `engine run` of 100 tiny steps, ten chains of ten, each of ten rows; then again, when all of it is finished;
* `engine plan` of a graph of 200 such steps, on an empty registry and on one where 100 steps are finished;
* `engine run` of a finished pipeline of three steps, which does nothing.

Goals: the plan on the empty registry takes less than 1 s of CPU, the finished pipeline of three steps less than 0.7 s. Exits with 1 when
one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.footprint import watch
from benchmarks.goals import exit_with
from benchmarks.rows import install
from benchmarks.runs import running

ROWS, CHAINS = 10, 10
PLAN_SECONDS, RERUN_SECONDS = 1.0, 0.7
BASE = ("-c", "import pyarrow, duckdb")


class Took(NamedTuple):
    """What a command took, in seconds of CPU and of wall time."""

    cpu: float
    wall: float


def engine(command: str) -> tuple[str, ...]:
    """Python's arguments for `engine run` or `engine plan`."""
    return ("-m", "engine.cli", "--registry", "registry", command, "pipeline.yaml", "--json")


def graph(steps: int, chains: int) -> dict[str, Any]:
    """Steps that pass rows on, in chains of equal length that begin at the same dataset."""
    names = [f"s{number}" for number in range(steps)]
    return {
        "name": "small",
        "datasets": {"items": {"type": "BenchItem", "path": "items.jsonl"}},
        "steps": {
            name: {
                "op": "pass_on",
                "in": names[number - chains] if number >= chains else "items",
                "with": {"times": number + 1},
            }
            for number, name in enumerate(names)
        },
    }


def took(folder: Path, document: dict[str, Any], command: Sequence[str], rounds: int = 1) -> Took:
    """What a command takes; the least CPU of several rounds, after one that fills the machine's caches."""
    (folder / "items.jsonl").write_text("".join(json.dumps({"id": row, "text": f"row {row}"}) + "\n" for row in range(ROWS)))
    found = []
    for _ in range(rounds + (rounds > 1)):
        before, began = _waited_for(), time.perf_counter()
        sampled = 0.0
        with running(folder, document, command) as run:
            if rounds == 1:  # Ray's processes are not waited for
                sampled = [sample.cpu.all for sample in watch(run)][-1]
        found.append(Took(max(sampled, _waited_for() - before), time.perf_counter() - began))
    return min(found)


def _waited_for() -> float:
    """Seconds of CPU of the processes that this one has waited for."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="that run")
    parser.add_argument("--planned", type=int, default=200, help="steps that are only planned")
    parser.add_argument("--repeat", type=int, default=5, help="rounds of commands that start no worker; the fastest counts")
    options = parser.parse_args()
    rounds = max(2, options.repeat)
    many, planned, three = graph(options.steps, CHAINS), graph(options.planned, CHAINS), graph(3, 1)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        install(top / "site")
        os.environ["ENGINE_CACHE"] = str(top / "cache")
        # Compiled modules are kept, as they are where the package is installed.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(top / "pycache")
        folders = {each: top / each for each in ("empty", "many", "three")}
        for folder in folders.values():
            folder.mkdir()
        base = took(folders["empty"], planned, BASE, rounds)
        found = {
            'python -c "import pyarrow, duckdb"': base,
            f"engine plan, {options.planned} steps": took(folders["empty"], planned, engine("plan"), rounds),
            f"engine run, {options.steps} steps": took(folders["many"], many, engine("run")),
            f"engine run again, {options.steps} finished steps": took(folders["many"], many, engine("run"), rounds),
            f"engine plan, {options.planned} steps of which {options.steps} are finished": took(
                folders["many"], planned, engine("plan"), rounds
            ),
            "engine run, 3 steps": took(folders["three"], three, engine("run")),
            "engine run again, 3 finished steps": took(folders["three"], three, engine("run"), rounds),
        }
    goals = {f"engine plan, {options.planned} steps": PLAN_SECONDS, "engine run again, 3 finished steps": RERUN_SECONDS}
    table = Table("command", "CPU s", "goal", "of base", "s")
    for what, each in found.items():
        table.add_row(what, f"{each.cpu:.2f}", str(goals.get(what, "")), f"{each.cpu / base.cpu:.1f}", f"{each.wall:.2f}")
    console = Console()
    console.print(table)
    missed = [
        f"{what} took {found[what].cpu:.2f} s of CPU, and {goal} is the goal"
        for what, goal in goals.items()
        if found[what].cpu >= goal
    ]
    exit_with(missed, console)


if __name__ == "__main__":
    main()
