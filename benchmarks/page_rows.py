"""How long does the page of a dataset take? `python -m benchmarks.page_rows [--rows 1000000]`

Builds two versions of a million rows (an id, a question of about 200 characters, an answer), starts `engine ui` on them, and asks for pages
as a browser does: the first page, the last, one in the middle, deep in the order of a column, of rows that match a condition; each once
before it is timed, and then as the median of five different pages. Also prints what a page costs that needs an order, a condition or charts
for the first time, and how long the command takes to print its address. Exits with 1 when a page of rows takes 300 ms or more, or the
start 2 s.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

from rich.console import Console
from rich.table import Table

from benchmarks.diff import commit, rows
from registry import Registry

GOAL, START = 0.3, 2.0
SIZE = 50


@contextmanager
def served(root: Path) -> Iterator[tuple[str, OpenerDirector, float]]:
    """The page of a registry: its address, a browser that may use it, and how long it took to start."""
    command = [sys.executable, "-m", "engine.cli", "--registry", str(root), "ui", "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            took = time.perf_counter() - began
            browser = build_opener(HTTPCookieProcessor())
            browser.open(found[0]).close()
            yield found[0].partition("/?")[0], browser, took
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    pages = count // SIZE
    middle = [pages * part // 7 for part in range(1, 6)]
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(folder)
        commit(registry, rows(range(count), lambda _: False), "first")
        commit(registry, rows(range(count), lambda number: number % 100 == 5), "second")
        with served(Path(folder)) as (base, browser, start):

            def get(**query: str | int) -> float:
                began = time.perf_counter()
                with browser.open(f"{base}/versions/bench/rows@1?{urlencode(query)}") as answer:
                    answer.read()
                return time.perf_counter() - began

            def median(numbers: list[int], **query: str | int) -> float:
                return statistics.median(get(page=page, **query) for page in numbers)

            first = {
                "the very first page": get(),
                "in the order of a short column": get(sort="answer"),
                "in the order of a long column": get(sort="question", desc=1),
                "where a number is looked for": get(where="answer = '12345'"),
                "where a word is looked for": get(where="question ilike '%museum%'"),
                "charts": get(view="charts"),
                "changes between two versions": get(view="diff", **{"with": "2", "key": "id"}),
            }
            get(sort="answer", page=pages // 2)
            again = {
                "at the start": median([2, 3, 4, 5, 6]),
                "anywhere": median(middle),
                "at the end": median([pages - turn for turn in range(5)]),
                "anywhere in the order of a column": median(middle, sort="answer"),
                "anywhere among those that match": median([10, 20, 30, 40, 50], where="question ilike '%museum%'"),
            }
    table = Table("page", "ms", title=f"engine ui, {count:,} rows, {os.cpu_count()} CPUs")
    for title, found in (("for the first time", first), ("rows", again)):
        for name, seconds in found.items():
            table.add_row(f"{title}: {name}", f"{seconds * 1e3:.0f}")
    table.add_row("until the address is printed", f"{start * 1e3:.0f}")
    Console().print(table)
    missed = [name for name, seconds in again.items() if seconds >= GOAL] + (["start"] if start >= START else [])
    sys.exit(f"missed: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
