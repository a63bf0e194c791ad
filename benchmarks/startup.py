"""How long short commands take, as multiples of `python -c "import pyarrow, duckdb"`.

    python benchmarks/startup.py [--repeat 5]

CPU seconds (user and system) and wall time of whole processes, each the least of several rounds, all in one run: a slow or busy
machine changes both sides of a ratio, which is one of CPU seconds. Commands run in an empty folder first, then on a registry that
has versions of one pipeline.

A first `check` or `plan` has an empty cache: it loads the package of a generator, and `plan` reads the sources and makes prompts.
Modules are compiled before, as pip does when it installs them. Until the first run, plans remember what the first one read.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PIPELINES = Path(__file__).parents[1] / "pipelines"
BASE = [sys.executable, "-c", "import pyarrow, duckdb"]
ENGINE = [sys.executable, "-m", "engine.cli"]


class Took(NamedTuple):
    """The time of a process, in seconds."""

    cpu: float
    wall: float


def main() -> None:
    """Print a table: command, CPU seconds, wall time, ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="rounds, of which the fastest counts")
    repeat = parser.parse_args().repeat
    shipped = sorted(path.stem for path in PIPELINES.glob("*.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        # Compiled modules are kept, as they are where the package is installed.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "pycache")
        use_empty_cache()
        base = measured(BASE, repeat)
        print(f"{'command':52} {'CPU s':>7} {'wall s':>7} {'ratio':>6}")

        def show(label: str, took: Took) -> None:
            print(f"{label:52} {took.cpu:7.2f} {took.wall:7.2f} {took.cpu / base.cpu:6.2f}", flush=True)

        def engine(arguments: Sequence[str], where: str = "") -> None:
            show(f"{where}engine {' '.join(arguments)}", measured([*ENGINE, *arguments], repeat))

        show(" ".join(["python", *BASE[1:]]), base)
        for words in (["--help"], ["--version"], ["ops"], ["schema"]):
            engine(words)
        for command in ("check", "plan"):
            for name in shipped:
                show(f"first engine {command} {name}", measured([*ENGINE, command, name], 2, forget=True))
            for name in shipped:
                engine([command, name])
        registry()
        for words in (["ls"], ["runs"], ["sql", "select 1"], ["check", "copy.yaml"], ["plan", "copy.yaml"]):
            engine(words, "with a registry: ")
        for name in shipped:
            engine(["check", name], "with a registry: ")


def use_empty_cache() -> None:
    """Give the next commands a cache of their own."""
    os.environ["ENGINE_CACHE"] = tempfile.mkdtemp(dir=Path.cwd(), prefix="cache-")


def measured(command: Sequence[str], rounds: int, *, forget: bool = False) -> Took:
    """The least time of a command; its files are in the machine's cache, and its modules compiled, after a first round.

    Args:
        forget: give it an empty cache in each round.
    """
    took = []
    for _ in range(rounds + 1):
        if forget:
            use_empty_cache()
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 2):  # 2: a shipped pipeline whose files the user has to bring
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        took.append(Took(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall))
    return Took(*map(min, zip(*took[1:], strict=True)))


def registry() -> None:
    """A registry with the versions of a pipeline without models."""
    Path("rows.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2"}) + "\n")
    Path("copy.yaml").write_text(
        "name: copy\ndatasets: {problems: {type: MathProblem, path: rows.jsonl}}\n"
        "steps: {once: {op: dedup, in: problems, with: {method: exact}}}\n"
    )
    subprocess.run([*ENGINE, "run", "copy.yaml"], check=True, capture_output=True)


if __name__ == "__main__":
    main()
