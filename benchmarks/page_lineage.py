"""How fast the page answers over a large registry: 1,000 versions, a million rows, 2.8 million row edges, 300 runs.

`python -m benchmarks.page_lineage` builds the registry in a temporary folder, serves it on loopback, and prints medians of ten requests, from
the first byte sent to the last one received. It fails when a row takes more than 200 ms, or a run more than 500 ms.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from urllib.parse import quote

from benchmarks.lineage import REPEATS, five_generations, thousand_versions, timed
from engine.page.access import Access
from engine.page.routes.site import Site
from engine.page.serving import listening, server_of
from engine.page.sessions import Sessions
from registry import ModelUsage, Registry, StepRun

RUNS, STEPS = 300, 20

Get = Callable[[str], bytes]


def many_runs(registry: Registry) -> None:
    """Runs of a pipeline of 20 steps that call models; they commit no versions."""
    used = ModelUsage(calls=100, calls_reused=20, tokens_in=20_000, tokens_out=5_000, cost_usd=0.1)
    for number in range(RUNS):
        run = registry.catalog.begin_run(f"p{number % 10}", {"params": {}})
        for place in range(STEPS):
            record = StepRun(step=f"s{place}", op="benchmark", outcome="ran", **used.model_dump(), by_model={"m": used})
            registry.catalog.commit([], run, record)
        registry.catalog.end_run(run, "succeeded")


@contextmanager
def served(location: str) -> Iterator[Get]:
    """Serves the page; yields what gets a path from it."""
    with listening("127.0.0.1", 0) as door:
        access = Access("127.0.0.1", door.getsockname()[1])
        server = server_of(Site(Sessions(location), access, location))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        try:
            opener.open(access.address).read()
            root = access.address.partition("?")[0]
            yield lambda path: bytes(opener.open(root + path).read())
        finally:
            server.should_exit = True
            thread.join()


def main() -> int:
    """Build, measure, print."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(f"{folder}/registry")
        edges = five_generations(registry)
        thousand_versions(registry)
        many_runs(registry)
        [(versions, rows)] = registry.catalog.look_up("select count(*), sum(rows) from versions")
        runs = dict(registry.catalog.look_up("select pipeline, max(run_id) from runs group by pipeline"))
        print(f"{versions:,} versions, {rows:,} rows, {edges:,} row edges, {RUNS + 2} runs; medians of {REPEATS} requests")
        with served(registry.location) as get:
            first = quote("b/g0@1")
            found = [
                ("row of the last generation", 200, timed(lambda n: get(f"rows/{n * 31_337}/b/g5@1"))),
                ("row of the first generation", 200, timed(lambda n: get(f"rows/{n * 31_337}/{first}"))),
                ("run that made six versions", 500, timed(lambda n: get(f"runs/{runs['b']}"))),
                ("run of twenty steps", 500, timed(lambda n: get(f"runs/{runs['p0']}"))),
                ("the same, what changes of it", 500, timed(lambda n: get(f"live/runs/{runs['p0']}"))),
                ("costs", 500, timed(lambda n: get("costs"))),
                ("home", 500, timed(lambda n: get(""))),
            ]
    for name, goal, taken in found:
        print(f"{name:32} {taken:8.1f} ms   (goal {goal} ms){'' if taken <= goal else '   MISSED'}")
    return int(any(taken > goal for _, goal, taken in found))


if __name__ == "__main__":
    sys.exit(main())
