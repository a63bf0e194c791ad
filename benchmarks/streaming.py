"""Do datasets larger than memory stream? `python -m benchmarks.streaming [--gigabytes 5]`

Writes a jsonl file of solutions (2 to 20 KB a row; 10^9 bytes a gigabyte), runs a pipeline with one row operator (`to_sft`)
over it with `engine run`, and prints rows a second and the most memory for its three phases: the source is read (and Ray
started), the step runs, its output is committed. Memory is resident memory, sampled five times a second over the tree of processes that
`engine run` starts: the driver, the worker processes, and Ray's own (raylet, gcs_server, agents, idle workers). Pages that
several processes share count once (PSS), so the sum is what the machine must have; the page cache of files is not in it.
The exit code is 1 when all of them together ever have more than 2 GB (2 * 10^9 bytes). The temporary folder (TMPDIR) needs
room for twice the file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

MOST_BYTES = 2 * 10**9
SAMPLE_SECONDS = 0.2
PIPELINE = {
    "name": "stream",
    "datasets": {"solutions": {"type": "MathSolution", "path": "solutions.jsonl"}},
    "steps": {"rows": {"op": "to_sft", "in": "solutions"}},
}


class Sample(NamedTuple):
    """Resident bytes at a moment."""

    at: float
    driver: int
    workers: int
    ray: int

    @property
    def all(self) -> int:
        """Everything that `engine run` started, and itself."""
        return self.driver + self.workers + self.ray


def write_source(file: Path, size: int, least: int, most: int) -> int:
    """Rows of `least` to `most` bytes, of words drawn at random, until the file has `size` bytes; gives their number."""
    draw = random.Random(4)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(20_000)]
    pool = " ".join(draw.choices(words, k=5_000_000))
    written = rows = 0
    with file.open("w") as out:
        while written < size:
            start, length = draw.randrange(len(pool) - most), draw.randint(least, most)
            text = pool[start : start + length]
            row = {
                "question": text[:300],
                "answer": str(rows),
                "solution": text[300:],
                "verdict": "correct",
                "id": f"row-{rows}",
            }
            written += out.write(json.dumps(row) + "\n")
            rows += 1
    return rows


def resident(process: psutil.Process) -> int:
    """A process's memory, of shared pages its share; 0 when it is gone."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def is_worker(process: psutil.Process) -> bool:
    """Whether it is a Ray worker that runs something; they call themselves `ray::...`."""
    try:
        return "_RayWorker" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def watch(run: subprocess.Popen[bytes]) -> Iterator[Sample]:
    """Samples until a run ends."""
    driver = psutil.Process(run.pid)
    while run.poll() is None:
        others = driver.children(recursive=True)
        workers = [process for process in others if is_worker(process)]
        ray = [process for process in others if process not in workers]
        yield Sample(time.time(), resident(driver), sum(map(resident, workers)), sum(map(resident, ray)))
        time.sleep(SAMPLE_SECONDS)


def engine_run(folder: Path) -> list[Sample]:
    """Run the pipeline in a process of its own."""
    (folder / "stream.yaml").write_text(json.dumps(PIPELINE))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "engine.cli", "--registry", "registry", "run", "stream.yaml", "--json"]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        run = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, stdout=out, stderr=err)
        try:
            samples = list(watch(run))
        finally:
            run.terminate()
            run.wait()
    if run.returncode:
        raise SystemExit((folder / "stderr").read_text() + (folder / "stdout").read_text())
    return samples


def phases(folder: Path, samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """When each phase began and ended, by what the workers left behind."""
    begun = min(file.stat().st_mtime for file in folder.glob("registry/receipts/*/*.begun"))
    done = max(file.stat().st_mtime for file in folder.glob("registry/receipts/*/*.json"))
    first, last = samples[0].at, samples[-1].at
    return {
        "read the source, start Ray": (first, begun),
        "run the step": (begun, done),
        "commit": (done, last),
        "all": (first, last),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--row-bytes", type=int, nargs=2, metavar=("LEAST", "MOST"), default=(2_000, 20_000))
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_source(folder / "solutions.jsonl", int(options.gigabytes * 10**9), *options.row_bytes)
        samples = engine_run(folder)
        [step] = json.loads((folder / "stdout").read_text())["steps"]
        assert step["rows_out"] == rows, step
        table = Table("phase", "s", "rows/s", *(f"{who}, MB" for who in ("driver", "workers", "Ray's own", "together")))
        table.title = f"{options.gigabytes:g} GB of jsonl, {rows:,} rows, {os.cpu_count()} CPUs; the most resident memory of"
        for phase, (start, stop) in phases(folder, samples).items():
            within = [sample for sample in samples if start <= sample.at <= stop] or samples[-1:]
            most = [max(getattr(sample, who) for sample in within) for who in ("driver", "workers", "ray", "all")]
            seconds = stop - start
            table.add_row(
                phase, f"{seconds:.1f}", f"{rows / max(seconds, 1e-3):,.0f}", *(f"{each / 1e6:,.0f}" for each in most)
            )
    console.print(table)
    most_at_once = max(sample.all for sample in samples)
    if most_at_once > MOST_BYTES:
        console.print(f"missed: {most_at_once / 1e9:.2f} GB of resident memory, and {MOST_BYTES / 1e9:g} GB is the goal")
    sys.exit(most_at_once > MOST_BYTES)


if __name__ == "__main__":
    main()
