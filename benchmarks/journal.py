"""What does the journal cost? `python -m benchmarks.journal [--entries 1000000]`

Fills a journal with answers of typical size, then prints, for one process with 64 requests at a time: CPU and wall time of a
write (durable when it returns) and of a look-up; time and memory to open it; the same through a `Service`, as for workers on
other machines, with a transport that copies its messages; and the cost of other designs: one commit per answer, and one file
per answer, both durable. The exit code is 1 if a goal is missed: 1 ms of CPU for a write and a look-up, a second to open.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pickle
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.goals import exit_with
from engine.llm.journal.answers import Answers, Journal
from engine.llm.journal.sqlite_file import entry_checksum
from engine.llm.service_client import RemoteAnswers
from engine.llm.shared_service import Service
from engine.llm.types.completions import Completion
from registry.storage.checked_json import json_digest
from registry.storage.files import durable_write

ANSWER = Completion(text="Step by step: " + "the sum grows by one. " * 40, tokens_in=180, tokens_out=240, latency_ms=812.5)
AT_A_TIME = 64


class Cost(NamedTuple):
    """The cost of one operation, in milliseconds."""

    cpu: float
    wall: float


def key(number: int) -> str:
    """A key as requests have them."""
    return json_digest(["benchmark", number])


async def drive(numbers: Iterable[int], work: Callable[[int], Awaitable[object]]) -> Cost:
    """The cost of some work, for each number, 64 at a time."""
    left = iter(numbers)
    done = 0

    async def worker() -> None:
        nonlocal done
        for number in left:
            await work(number)
            done += 1

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(AT_A_TIME)])
    return Cost((time.process_time() - cpu) * 1000 / done, (time.perf_counter() - wall) * 1000 / done)


def fill(journal: Journal, entries: int) -> None:
    """Entries by the thousand, without waiting for each: only to have a large file."""
    text = ANSWER.model_dump_json(exclude_defaults=True)
    with sqlite3.connect(journal.file) as connection:
        for start in range(0, entries, 50_000):
            keys = [key(number) for number in range(start, min(entries, start + 50_000))]
            connection.executemany("insert into answers values (?, ?, ?)", [(k, text, entry_checksum(k, text)) for k in keys])
            connection.commit()


class CopyingTransport:
    """Carries calls within this process, serialized like calls to another machine."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def call(self, method: str, *arguments: Any) -> Any:
        """See Transport."""
        copied = pickle.loads(pickle.dumps(arguments))
        return pickle.loads(pickle.dumps(await getattr(self._service, method)(*copied)))


async def use(answers: Answers, entries: int, start: int, operations: int) -> tuple[Cost, Cost, Cost]:
    """Costs of a write, of a look-up that finds something, and of one that does not."""
    write = await drive(range(start, start + operations), lambda number: answers.put(key(number), ANSWER))
    step = max(1, entries // operations)
    found = await drive(range(0, entries, step), lambda number: answers.get(key(number)))
    missing = await drive(range(-operations, 0), lambda number: answers.get(key(number)))
    return write, found, missing


async def measure(folder: Path, entries: int, operations: int, table: Table) -> list[str]:
    """Measure everything. Returns the goals that were missed."""
    fill(first := Journal(folder), entries)
    first.close()
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    journal = Journal(folder)
    assert await journal.get(key(entries // 2)) == ANSWER
    opened = time.perf_counter() - started
    missed = [f"open: {opened:.3f} s"] if opened > 1 else []
    table.add_row("open, and look one up", "", f"{opened * 1000:.1f}", f"{entries:,} entries")

    remote = RemoteAnswers(CopyingTransport(Service(folder)))
    for name, answers, start in (("", journal, entries), ("through a service: ", remote, 2 * entries)):
        write, found, missing = await use(answers, entries, start, operations)
        for what, cost in (("write", write), ("look-up that finds", found), ("look-up that does not", missing)):
            table.add_row(f"{name}{what}", f"{cost.cpu:.3f}", f"{cost.wall:.3f}", "")
        if write.cpu + missing.cpu > 1:
            missed.append(f"{name}write and look-up: {write.cpu + missing.cpu:.2f} ms of CPU")
    grown = (psutil.Process().memory_info().rss - before) / 2**20
    table.add_row("memory for all of this", "", "", f"{grown:.0f} MiB; the file has {journal.file.stat().st_size / 2**20:.0f}")
    journal.close()

    few = max(200, operations // 20)
    with sqlite3.connect(folder / "each.sqlite") as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("create table answers (key text primary key, answer text) without rowid")

        async def commit_each(number: int) -> None:
            connection.execute("insert into answers values (?, ?)", (key(number), ANSWER.model_dump_json()))
            connection.commit()

        cost = await drive(range(few), commit_each)
    table.add_row("instead: a commit for each answer", f"{cost.cpu:.3f}", f"{cost.wall:.3f}", "")

    async def file_each(number: int) -> None:
        durable_write(folder / "files" / key(number), ANSWER.model_dump_json().encode())

    cost = await drive(range(few), file_each)
    table.add_row("instead: a file for each answer", f"{cost.cpu:.3f}", f"{cost.wall:.3f}", "")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--operations", type=int, default=20_000)
    options = parser.parse_args()
    table = Table("operation", "ms of CPU", "ms", "", title=f"the journal, {os.cpu_count()} CPUs", title_justify="left")
    with tempfile.TemporaryDirectory() as folder:
        missed = asyncio.run(measure(Path(folder), options.entries, options.operations, table))
    console = Console()
    console.print(table)
    exit_with(missed, console)


if __name__ == "__main__":
    main()
