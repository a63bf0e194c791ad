"""Do datasets larger than memory stream? `python -m benchmarks.streaming [--gigabytes 5]`

Writes a jsonl file of solutions (2 to 20 KB a row; 10^9 bytes a gigabyte), runs a pipeline with one row operator (`to_sft`) over it with
`engine run`, and prints rows a second and the highest memory for its three phases: the source is read (and Ray starts), the step runs,
its output is committed. Memory is resident memory, sampled five times a second over the tree of processes that `engine run` starts: the
driver, the workers, and Ray's own (raylet, gcs_server, agents, idle workers). Pages that several processes share count once (PSS), so the
sum is what the machine needs. The page cache of files is not included. Exits with 1 when all of them together ever use more than 2 GB
(2 * 10^9 bytes). The temporary folder (TMPDIR) needs room for twice the file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.footprint import Sample, watch
from benchmarks.runs import outcome, running

MOST_BYTES = 2 * 10**9
PIPELINE = {
    "name": "stream",
    "datasets": {"solutions": {"type": "MathSolution", "path": "solutions.jsonl"}},
    "steps": {"rows": {"op": "to_sft", "in": "solutions"}},
}


def write_source(file: Path, size: int, least: int, most: int) -> int:
    """Rows of `least` to `most` bytes, of words drawn at random, until the file has `size` bytes; returns the number of rows."""
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
        with running(folder, PIPELINE) as run:
            samples = list(watch(run))
        [step] = outcome(folder)["steps"]
        assert step["rows_out"] == rows, step
        table = Table("phase", "s", "rows/s", *(f"{who}, MB" for who in ("driver", "workers", "Ray's own", "together")))
        table.title = f"{options.gigabytes:g} GB of jsonl, {rows:,} rows, {os.cpu_count()} CPUs; peak resident memory of"
        for phase, (start, stop) in phases(folder, samples).items():
            within = [sample for sample in samples if start <= sample.at <= stop] or samples[-1:]
            most = [max(getattr(sample.memory, who) for sample in within) for who in ("driver", "workers", "ray", "all")]
            seconds = stop - start
            table.add_row(
                phase, f"{seconds:.1f}", f"{rows / max(seconds, 1e-3):,.0f}", *(f"{each / 1e6:,.0f}" for each in most)
            )
    console.print(table)
    most_at_once = max(sample.memory.all for sample in samples)
    if most_at_once > MOST_BYTES:
        console.print(f"missed: {most_at_once / 1e9:.2f} GB of resident memory, and {MOST_BYTES / 1e9:g} GB is the goal")
    sys.exit(most_at_once > MOST_BYTES)


if __name__ == "__main__":
    main()
