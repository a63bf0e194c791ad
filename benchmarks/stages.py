"""Where does the CPU of an ingest and an append go? `python -m benchmarks.stages [--rows 200000] [--runs 5]`

The same work as that of this registry in `python -m benchmarks.registry`. Prints medians of the CPU time in each stage, in milliseconds.
A stage counts the time of its own thread without the stages inside it. `everything else` is the rest of the process: dividing the
rows, threads of Arrow, Python between the stages.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.lakes import Cost, Ours, cost, solutions
from registry.catalog.catalog import Catalog
from registry.records import boundaries
from registry.records.content import ContentHash
from registry.registry import Registry
from registry.storage.objects import ObjectStore

STAGES = {
    "Parquet: encoding, zstd, CRC of pages": (pq, "write_table"),
    "SHA-256 and durable writing of objects": (ObjectStore, "put_bytes"),
    "content id: SHA-256 of columns": (ContentHash, "update"),
    "row hashes, for where objects end": (boundaries, "hashed"),
    "the last objects: reading, verifying": (ObjectStore, "read_table"),
    "finding the version before": (Registry, "newest"),
    "the run begins": (Catalog, "begin_run"),
    "the version is committed": (Catalog, "commit"),
    "the run ends": (Catalog, "end_run"),
}
REST = "everything else"


@contextmanager
def timed() -> Iterator[Counter[str]]:
    """The CPU seconds of each stage in the block, over all threads."""
    spent, here, lock = Counter[str](), threading.local(), threading.Lock()

    def stage(name: str, work: Any) -> Any:
        @wraps(work)
        def measured(*args: Any, **options: Any) -> Any:
            outside, here.inside, before = getattr(here, "inside", 0.0), 0.0, time.thread_time()
            try:
                return work(*args, **options)
            finally:
                whole = time.thread_time() - before
                with lock:
                    spent[name] += whole - here.inside
                here.inside = outside + whole

        return measured

    patches = [
        patch.object(owner, attribute, stage(name, getattr(owner, attribute))) for name, (owner, attribute) in STAGES.items()
    ]
    for each in patches:
        each.start()
    try:
        yield spent
    finally:
        for each in patches:
            each.stop()


def measure(rows: int) -> list[tuple[Cost, Counter[str]]]:
    """The cost of an ingest and of an append of a tenth more, and their stages."""
    first, more = solutions(0, rows), solutions(rows, rows // 10)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        lake = Ours(Path(folder))
        lake.create("imports", more.slice(0, 1))  # what is imported or connected once is not counted
        for work in (lambda: lake.create("rows", first), lambda: lake.append("rows", more)):
            with timed() as spent:
                found.append((cost(work), spent))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    runs = [measure(options.rows) for _ in range(options.runs)]
    table = Table(
        "ms of CPU", f"ingest of {options.rows:,} rows", f"append of {options.rows // 10:,} rows", title_justify="left"
    )

    def row(label: str, value: Any) -> None:
        middle = (statistics.median(value(run[which]) * 1e3 for run in runs) for which in (0, 1))
        table.add_row(label, *(f"{each:,.1f}" for each in middle))

    for name in STAGES:
        row(name, lambda found, name=name: found[1][name])
    row(REST, lambda found: found[0].cpu - found[1].total())
    table.add_section()
    row("all", lambda found: found[0].cpu)
    Console().print(table)


if __name__ == "__main__":
    main()
