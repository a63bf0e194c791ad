"""How long short commands take, as multiples of `python -c "import pyarrow, duckdb"`.

    python benchmarks/startup.py [--repeat 5]

CPU seconds (user and system) of whole processes, the least of several rounds, all in one run: a slow or busy machine changes
both sides of a ratio. Commands run in an empty folder first, then on a registry that has versions of one pipeline. What a
generator's package costs is paid once, when its settings are first checked (`first check`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PIPELINES = Path(__file__).parents[1] / "pipelines"
BASE = [sys.executable, "-c", "import pyarrow, duckdb"]
ENGINE = [sys.executable, "-m", "engine.cli"]


def main() -> None:
    """Print a table: command, CPU seconds, ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="rounds, of which the fastest counts")
    repeat = parser.parse_args().repeat
    shipped = sorted(path.stem for path in PIPELINES.glob("*.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["ENGINE_CACHE"] = str(Path(folder) / "cache")
        # Compiled modules are kept, as they are where the package is installed.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "pycache")
        base = seconds(BASE, repeat)
        print(f"{'command':48} {'CPU s':>7} {'ratio':>6}\n{' '.join(['python', *BASE[1:]]):48} {base:7.2f} {1:6.2f}")

        def show(label: str, arguments: Sequence[str], rounds: int = repeat) -> None:
            took = seconds([*ENGINE, *arguments], rounds)
            print(f"{label:48} {took:7.2f} {took / base:6.2f}", flush=True)

        for words in (["--help"], ["--version"], ["ops"], ["schema"]):
            show(" ".join(["engine", *words]), words)
        for name in shipped:
            show(f"first check {name}", ["check", name], 1)
        for name in shipped:
            show(f"engine check {name}", ["check", name])
        for name in shipped:
            show(f"engine plan {name} (sources not read yet)", ["plan", name], 1)
        registry()
        for words in (["ls"], ["runs"], ["sql", "select 1"], ["check", "copy.yaml"], ["plan", "copy.yaml"]):
            show(f"with a registry: engine {' '.join(words)}", words)
        for name in shipped:
            show(f"with a registry: engine check {name}", ["check", name])


def seconds(command: Sequence[str], rounds: int) -> float:
    """The least CPU seconds of a command; its files are in the machine's cache after a first round."""
    took = []
    for _ in range(rounds + (rounds > 1)):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 2):  # 2: a shipped pipeline whose files the user has to bring
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took)


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
