"""How well does the engine adapt to a server's limits? `python -m benchmarks.limits`

1,000 rows with `concurrency: 64`, against a server on this machine that serves 16 requests at a time (it answers others with
429 and Retry-After at once), and fails 2 % of requests with 500. Prints, for `engine run`, the rows that succeeded, the 429s,
and the time relative to the ideal (rows x latency / 16). The goals: all rows, fewer than 50 429s, less than 2.5 times the
ideal. The exit code is 1 if one is missed.
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
