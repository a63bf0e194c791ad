"""What does a row cost on its way through three steps that do nothing? `python -m benchmarks.rows [--rows 500000]`

Prints the CPU that a row costs in `engine run` (a source from Parquet, three operators that pass rows on, row operators or batch
operators, everything committed with lineage and content ids), and in others that do no more than pass rows on, on the same file:

* three `map_batches` of Ray Data from Parquet to Parquet, which it fuses into one task, and the same with `map`, row by row;
* three `create table as select` of DuckDB.

Starting is subtracted: it is what the same takes for a few rows. It varies by a second of CPU or so, which is 2 us a row of 500,000. All
processes count, Ray's own, too.

Prints the highest memory of the engine's driver and workers at a quarter of the rows and at all of them. Exits with 1 when it is not flat:
higher at all rows by a fifth and 100 MB.

`--in-process` runs only the engine, its partitions in this process, one after another. Ray's own cost is
not in it, so this is what to compare before and after a change.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.footprint import Shares, watch
from benchmarks.runs import ENGINE_RUN, running

FEW = 2 * 4096 * (os.cpu_count() or 1)
"""Rows of a run that is all start: two partitions for each worker, so that all of them start."""
STEPS = 3
MOST_GROWTH, MOST_GROWN_BYTES = 1.2, 100e6
HERE = "benchmark_rows_operators"
OPERATORS = """
from collections.abc import AsyncIterator
from engine.operator import Batch, Record, operator

class BenchItem(Record):
    id: int
    text: str
    label: str | None = None

@operator(outputs=BenchItem)
async def pass_on(item: BenchItem, *, times: int = 1) -> AsyncIterator[BenchItem]:
    yield item

@operator(outputs=BenchItem)
def pass_batch_on(items: Batch[BenchItem], *, times: int = 1) -> object:
    return items
"""


def _pipeline(operator: str) -> dict[str, Any]:
    steps = {name: {"op": operator, "with": {"times": times}} for times, name in enumerate(("first", "second", "third"), 1)}
    for step, before in zip(steps.values(), ("items", *steps), strict=False):
        step["in"] = before
    return {"name": "rows", "datasets": {"items": {"type": "BenchItem", "path": "items.parquet"}}, "steps": steps}


ROW, BATCH = "engine run, row operators", "engine run, batch operators"
PIPELINES = {ROW: _pipeline("pass_on"), BATCH: _pipeline("pass_batch_on")}
COMMANDS = {
    ROW: ENGINE_RUN,
    BATCH: ENGINE_RUN,
    "Ray Data, map_batches": ("-c", "from benchmarks.no_op_peers import ray_data_batches; ray_data_batches()"),
    "Ray Data, map": ("-c", "from benchmarks.no_op_peers import ray_data_rows; ray_data_rows()"),
    "DuckDB": ("-c", "from benchmarks.no_op_peers import duckdb_tables; duckdb_tables()"),
}


class Used(NamedTuple):
    """Seconds of CPU, and the highest memory in bytes."""

    cpu: Shares
    memory: Shares


def install(folder: Path) -> None:
    """Put an installed package with the operator into the folder, and the folder on the path, also of processes started later."""
    folder.mkdir(exist_ok=True)
    (folder / f"{HERE}.py").write_text(OPERATORS)
    package = folder / f"{HERE}-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {HERE}\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[engine.operators]\n{HERE} = {HERE}\n")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def write_items(folder: Path, rows: int) -> None:
    """The rows, as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = range(rows)
    texts = [f"the text of row {number}" for number in numbers]
    pq.write_table(pa.table({"id": list(numbers), "text": texts, "label": ["a"] * rows}), folder / "items.parquet")


def use(name: str, rows: int) -> Used:
    """Run one of the commands on so many rows, in a folder of its own."""
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        write_items(folder, rows)
        with running(folder, PIPELINES.get(name, {}), COMMANDS[name]) as run:
            samples = list(watch(run))
    memory = Shares(*(max(getattr(sample.memory, who) for sample in samples) for who in Shares._fields))
    return Used(samples[-1].cpu, memory)


def compare(rows: int, console: Console) -> bool:
    """Print what each program uses; returns whether the engine's memory is flat."""
    sizes = (FEW, rows // 4, rows)
    used = {name: {size: use(name, size) for size in sizes if name in PIPELINES or size != rows // 4} for name in COMMANDS}
    table = Table(
        "CPU us a row", "driver", "workers", "Ray's own", "all", "a step", title=f"{rows:,} rows", title_justify="left"
    )
    for name, by_size in used.items():
        few, many = by_size[FEW].cpu, by_size[rows].cpu
        costs = [(after - before) / (rows - FEW) * 1e6 for before, after in zip(few, many, strict=True)]
        table.add_row(name, *(f"{cost:.1f}" for cost in (*costs, sum(costs), sum(costs) / STEPS)))
    console.print(table)
    memory = Table("highest memory, MB", "", *(f"{size:,} rows" for size in sizes))
    flat = True
    for name in PIPELINES:
        for who in ("driver", "workers"):
            found = [getattr(used[name][size].memory, who) for size in sizes]
            memory.add_row(name, who, *(f"{each / 1e6:,.0f}" for each in found))
            flat = flat and found[-1] <= MOST_GROWTH * found[-2] + MOST_GROWN_BYTES
    console.print(memory)
    return flat


def in_process(rows: int) -> None:
    """Print what a row costs the engine without Ray."""
    gc.set_threshold(10_000)  # as in the engine's own processes
    for name, pipeline in PIPELINES.items():
        few, many = (_cpu_in_process(pipeline, size) for size in (FEW, rows))
        print(f"{name}: {rows:,} rows; CPU us a row: {(many - few) / (rows - FEW) * 1e6:.1f} for the source and {STEPS} steps")


def _cpu_in_process(document: dict[str, Any], rows: int) -> float:
    import yaml

    from engine.cli.progress import PlainProgress
    from engine.pipeline.check import check
    from engine.running.run import run
    from registry import Registry
    from tests.engine.running.scripted import Scripted

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_items(folder, rows)
        (folder / "p.yaml").write_text(yaml.safe_dump(document))
        pipeline, registry = check(folder / "p.yaml"), Registry(folder / "registry")
        began = time.process_time()
        quiet, here = PlainProgress(Console(quiet=True)), Scripted(lambda count: 0, room=2)
        result = run(pipeline, registry, quiet, select=set(), force=set(), cluster=here)
        cpu = time.process_time() - began
        assert result.state == "succeeded", result.error
    print(f"{rows:,} rows: content id {result.steps[-1].outputs[0].content_id}")
    return cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--in-process", action="store_true", help="only the engine, without Ray")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        install(Path(name) / "site")
        if options.in_process:
            in_process(options.rows)
            return
        console = Console()
        if not compare(options.rows, console):
            console.print("missed: the engine's memory is not flat")
            sys.exit(1)


if __name__ == "__main__":
    main()
