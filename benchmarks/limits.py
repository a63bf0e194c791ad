"""How are a server's limits met? `python -m benchmarks.limits`

1,000 rows with 64 requests in flight, against a server on this machine that can take 16 (more get 429 with Retry-After at once) and
answers 2 % of requests with 500. Prints, for `engine run`, the rows that got an answer, the 429s, and the time relative to the ideal
(rows x latency / 16). Goals: all rows, fewer than 50 answers of 429, less than 2.5 times the ideal. Exits with 1 when one is missed.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from benchmarks.endpoint import Endpoint
from benchmarks.runs import engine_run

ROWS, ASKED, CARRIES = 1000, 64, 16
MOST_429, MOST_OVER_IDEAL = 50, 2.5


def main() -> None:
    table = Table("latency", "requests", "answered", "429", "500", "most in flight", "s", "over the ideal")
    good = True
    for latency in (0.05, 0.2):
        with Endpoint(latency=latency, carries=CARRIES, failing=0.02) as server:
            seen = engine_run(server, ROWS, limits={"concurrency": ASKED})
        over = seen["seconds"] / (ROWS * latency / CARRIES)
        counts = [str(seen[name]) for name in ("requests", "answered", "throttled", "failed", "most_in_flight")]
        table.add_row(f"{latency * 1000:.0f} ms", *counts, f"{seen['seconds']:.1f}", f"{over:.2f}")
        good = good and seen["answered"] == ROWS and seen["throttled"] < MOST_429 and over < MOST_OVER_IDEAL
    Console().print(table)
    sys.exit(not good)


if __name__ == "__main__":
    main()
