"""How long does `engine diff` take? `python -m benchmarks.diff [--rows 1000000]`

Builds two versions of a million rows (an id, a question of about 200 characters, an answer): 1 % changed, 1 % removed, 1 % added. Times
the whole command, from start to exit: by content, by key, and for the same rows in another order, each the median of three. Exits with 1
when one takes 5 seconds or more, or finds something other than what was done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.goals import exit_with
from registry import DataObject, Draft, Record, Registry
from registry.records.content import content_id
from registry.records.schema import fields_of

GOAL = 5.0
PART = 100_000
"""Rows of one object, as partitions of a step have them."""
SUBJECTS = ("A farmer", "Ms Ito", "The baker", "Every pupil of a class", "A train", "The museum", "Aunt Rosa", "A crew of nine")
DEEDS = ("sells apples by the crate", "walks to the next village", "saves a part of the wages", "paints the long fence")


class Problem(Record):
    """A row as pipelines have it."""

    id: str
    question: str
    answer: str


class Cost(NamedTuple):
    """The cost of one command."""

    seconds: float
    cpu: float
    megabytes: float


def question(number: int, draw: random.Random) -> str:
    """A question of about 200 characters, different for each row."""
    who, what = draw.choice(SUBJECTS), draw.choice(DEEDS)
    first, second, third = (draw.randrange(2, 9_999) for _ in range(3))
    return (
        f"{who} {what} {first} times in week {number}, and {second} times in the week that follows, at {third} cents for each. "
        f"How many dollars are there at the end, when {first % 97} of them were spent on the way home?"
    )


def rows(numbers: Sequence[int], changed: Callable[[int], bool]) -> pa.Table:
    """Rows by their numbers; some have a changed answer."""
    ids, questions, answers = [], [], []
    for number in numbers:
        draw = random.Random(number)
        ids.append(f"problem-{number}")
        questions.append(question(number, draw))
        answers.append(str(draw.randrange(100_000) + (100_000 if changed(number) else 0)))
    return pa.table([ids, questions, answers], schema=Problem.arrow_schema())


def commit(registry: Registry, table: pa.Table, key: str) -> None:
    """Make the rows the next version of `bench/rows`."""
    parts = []
    for start in range(0, table.num_rows, PART):
        piece = table.slice(start, PART)
        stored = registry.store.put_table(piece)
        parts.append(DataObject(sha256=stored.sha256, rows=piece.num_rows, bytes=stored.bytes))
    draft = Draft(
        name="bench/rows",
        kind="dataset",
        type=Problem.type_name(),
        fields=fields_of(table.schema),
        content_id=content_id(table.schema, [table]),
        pipeline="bench",
        step="rows",
        op="source",
        output="out",
        step_key=key,
        key_object=parts[0],
        data=tuple(parts),
    )
    run = registry.catalog.begin_run("bench", {})
    [made] = registry.catalog.commit([draft], run, None)
    registry.catalog.end_run(run, "succeeded", refs={made.name: made.version})


def measure(root: Path, *arguments: str) -> tuple[dict[str, Any], Cost]:
    """Run `engine diff ... --json`; returns the differences between the rows, and the median cost of three runs."""
    command = [sys.executable, "-m", "engine.cli", "--registry", str(root), "diff", *arguments, "--json"]
    costs = []
    for _ in range(3):
        with tempfile.TemporaryFile() as output:
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=output)
            _, status, usage = os.wait4(process.pid, 0)
            costs.append(Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                sys.exit(f"{' '.join(command)} ended with {process.returncode}")
            output.seek(0)
            found = json.load(output)["rows"]
    return found, Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    few = count // 100
    counted = ("added", "removed", "changed")
    table = Table("compared", "s", "s of CPU", "MB", *counted, title=f"engine diff, {count:,} rows each, {os.cpu_count()} CPUs")
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(folder)
        first = rows(range(count), lambda _: False)
        kept = [number for number in range(count + few) if not (number % 100 == 3 and number < count)]
        order = list(range(count))
        random.Random(1).shuffle(order)
        commit(registry, first, "first")
        commit(registry, rows(kept, lambda number: number % 100 == 5 and number < count), "second")
        commit(registry, first.take(pa.array(order)), "third")
        versions = [f"bench/rows@{version}" for version in (1, 2, 3)]
        kinds = {
            "by content": ((versions[0], versions[1]), (2 * few, 2 * few, 0)),
            "by key": ((versions[0], versions[1], "--key", "id"), (few, few, few)),
            "another order": ((versions[0], versions[2]), (0, 0, 0)),
        }
        for kind, (arguments, expected) in kinds.items():
            found, cost = measure(registry.root, *arguments)
            numbers = tuple(found[name] for name in counted)
            table.add_row(kind, *(f"{each:,.1f}" for each in cost), *(f"{number:,}" for number in numbers))
            if cost.seconds >= GOAL:
                missed.append(f"{kind}: {cost.seconds:.2f} s")
            if numbers != expected:
                missed.append(f"{kind}: found {numbers}, not {expected}")
    console = Console()
    console.print(table)
    exit_with(missed, console)


if __name__ == "__main__":
    main()
