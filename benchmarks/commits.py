"""How fast are commits, reads and a rebuild of the catalog? `python -m benchmarks.commits [--commits 1000]`

Prints commits a second of one process and of eight at a time, beside eight processes that read all the while. Each commit makes two
versions visible and is durable when it returns. Then prints how long `engine rebuild` takes for 500 versions of 16 objects each. Exits
with 1 when a process failed or the rebuild took 3 s or more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from registry import DataObject, Draft, Registry, SideObject, StepRun

WRITERS = 8
STEPS = 5
"""Commits of one run."""
VERSIONS, OBJECTS = 500, 16
MOST_SECONDS = 3.0

CONTEXT = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--commits", type=int, default=1000)
    commits = parser.parse_args().commits
    table, good = Table("", "a second", "ms each"), True
    with tempfile.TemporaryDirectory() as folder:
        for writers in (1, WRITERS):
            root = Path(folder, f"by-{writers}")
            seconds, failed = _together(writers, _commits, root, commits // writers)
            _row(table, f"commits, {writers} at a time", commits // writers * writers, seconds)
            good = good and not failed
        reads = commits // WRITERS
        seconds, failed = _together(WRITERS, _reads, root, reads)
        _row(table, f"reads, {WRITERS} at a time, over {commits:,} commits", reads * WRITERS, seconds)
        rebuild = _rebuild(Path(folder, "rebuilt"))
        Console().print(table)
        print(f"rebuild of {VERSIONS} versions of {OBJECTS} objects: {rebuild:.2f} s (the goal: less than {MOST_SECONDS:g} s)")
    sys.exit(not (good and not failed and rebuild < MOST_SECONDS))


def _row(table: Table, what: str, count: int, seconds: float) -> None:
    table.add_row(what, f"{count / seconds:.0f}", f"{seconds / count * 1000:.1f}")


def _together(processes: int, work: Callable[[Path, int, int, Any], None], root: Path, count: int) -> tuple[float, int]:
    """The seconds that processes take for `count` pieces of work each, from when all are ready; and how many failed."""
    ready = CONTEXT.Barrier(processes + 1)
    running = [CONTEXT.Process(target=work, args=(root, who, count, ready)) for who in range(processes)]
    for process in running:
        process.start()
    ready.wait()
    started = time.perf_counter()
    for process in running:
        process.join()
    return time.perf_counter() - started, sum(process.exitcode != 0 for process in running)


def _commits(root: Path, who: int, count: int, ready: Any) -> None:
    registry = Registry(root)
    objects = _objects(registry, 1)
    catalog, run = registry.catalog, ""
    ready.wait()
    for number in range(count):
        if number % STEPS == 0:
            run = catalog.begin_run("speed", {})
        pair = [_draft(f"speed/{who}.{half}", str(number), objects) for half in "ab"]
        made = catalog.commit(pair, run, StepRun(step=f"s{number % STEPS}", op="test", outcome="ran"))
        if number % STEPS == STEPS - 1 or number == count - 1:
            catalog.end_run(run, "succeeded", refs={manifest.name: manifest.version for manifest in made})


def _reads(root: Path, who: int, count: int, ready: Any) -> None:
    registry = Registry(root)
    ready.wait()
    for _ in range(count):
        with registry.session() as session:
            assert session.ask("select name, latest_version from datasets").rows


def _rebuild(root: Path) -> float:
    registry = Registry(root)
    objects = _objects(registry, OBJECTS)
    drafts = [_draft(f"speed/{number % 50}", str(number), objects) for number in range(VERSIONS)]
    run = registry.catalog.begin_run("speed", {})
    for first in range(0, VERSIONS, 10):
        registry.catalog.commit(drafts[first : first + 10], run, StepRun(step=f"s{first}", op="test", outcome="ran"))
    registry.catalog.end_run(run, "succeeded")
    started = time.perf_counter()
    assert registry.catalog.rebuild() == VERSIONS
    return time.perf_counter() - started


def _objects(registry: Registry, count: int) -> list[DataObject]:
    stored = [registry.store.put_bytes(f"object {number}".encode()) for number in range(count)]
    return [DataObject(sha256=each.sha256, rows=1000, bytes=each.bytes) for each in stored]


def _draft(name: str, key: str, objects: list[DataObject]) -> Draft:
    side = [SideObject(kind="lineage", sha256=each.sha256, rows=1000, bytes=each.bytes) for each in objects]
    return Draft(
        name=name,
        kind="dataset",
        type="Row",
        fields={"text": "string"},
        content_id=key,
        pipeline="speed",
        step="s",
        op="test",
        output="out",
        step_key=key,
        key_object=objects[0],
        data=tuple(objects),
        side=tuple(side),
    )


if __name__ == "__main__":
    main()
