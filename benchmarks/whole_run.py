"""How well does a whole run use its model server? `python -m benchmarks.whole_run [--rows 4800]`

Runs two pipelines against a scripted server on this machine, which takes 200 ms for an answer (median; lognormal, sigma 0.5), with 64
requests in flight: a chain of three steps that ask once for each row, and PersonaMath's graph (benchmarks/scripted_personamath.py).
How long an answer takes follows from what is asked, so every run waits for the same latencies. Each pipeline runs twice, with a fresh
registry:

* `engine run`: the command;
* step by step: one step after another in the pipeline's order, in one process on one Ray, so that a step begins when all steps
  before it are committed. Finished steps are looked up again for each step, which costs some CPU.

Prints for each run the share of the ideal, which is the sum of all latencies divided by the requests in flight, of the time from the
first request to the last answer, over the whole run: steps without calls, commits and the last slow answers count, too. Beside it the
calls, the CPU of the driver, the workers and Ray (not of the server), and the time of the whole process. Both runs of a pipeline must
send the same requests and make the same datasets.

Goals for `engine run`: 0.9 of the ideal for the chain, 0.85 for PersonaMath. Exits with 1 when one is missed. A busy machine lowers
the shares.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import scripted_personamath
from benchmarks.endpoint import Endpoint
from benchmarks.footprint import Shares, watch
from benchmarks.goals import exit_with
from benchmarks.runs import ENGINE_RUN, running
from registry import Registry

MEDIAN_SECONDS, SIGMA, IN_FLIGHT = 0.2, 0.5, 64
SAMPLE_SECONDS = 1.0
STEP_BY_STEP = ("-m", "benchmarks.whole_run", "--step-by-step", "pipeline.yaml")
LOOPS = {"engine run": ENGINE_RUN, "step by step": STEP_BY_STEP}
JUDGED = "engine run"


class Case(NamedTuple):
    """A pipeline to run.

    Args:
        name: the name of the pipeline.
        goal: the least share of the ideal.
        answer: the answer of the server; see benchmarks/endpoint.py.
        prepare: writes so many rows into a folder, for so many calls of a chain, and gives the pipeline for a model.
    """

    name: str
    goal: float
    answer: str
    prepare: Callable[[Path, int, dict[str, Any]], dict[str, Any]]


class Measured(NamedTuple):
    """A run: what the server saw, seconds of CPU and of the whole process, and content ids by dataset."""

    seen: dict[str, Any]
    cpu: Shares
    wall: float
    made: dict[str, str]

    @property
    def ideal(self) -> float:
        """Seconds that the requests need if none waits for another."""
        return float(self.seen["latencies"]) / IN_FLIGHT

    @property
    def share(self) -> float:
        """The share of the ideal that the run reached, from 0 to 1."""
        return self.ideal / float(self.seen["seconds"])


def chain(folder: Path, rows: int, model: dict[str, Any]) -> dict[str, Any]:
    """A pipeline of three steps with one model call for each row, each step with its own prompt."""
    lines = [json.dumps({"question": f"What is {number}?", "answer": str(number)}) for number in range(rows)]
    (folder / "problems.jsonl").write_text("\n".join(lines))
    steps = {"first": "problems", "second": "first.solved", "third": "second.solved"}
    return {
        "name": "chain",
        "models": {"teacher": model},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {
            name: {"op": "regenerate_cot", "in": given, "with": {"prompt": f"The {name} time: {{{{ question }}}}"}}
            for name, given in steps.items()
        },
    }


def personamath(folder: Path, rows: int, model: dict[str, Any]) -> dict[str, Any]:
    """PersonaMath's graph, with about as many calls as the chain: a problem takes 12."""
    scripted_personamath.write_data(folder, rows // 4)
    return scripted_personamath.pipeline(model)


CASES = (
    Case("chain", 0.9, "benchmarks.endpoint:first_number", chain),
    Case("personamath", 0.85, "benchmarks.scripted_personamath:answer", personamath),
)


def measure(case: Case, rows: int, server: Endpoint, command: tuple[str, ...]) -> Measured:
    """Run a pipeline in a folder of its own."""
    model = {"provider": "openai", "model": "m", "base_url": server.base_url, "limits": {"concurrency": IN_FLIGHT}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document = case.prepare(folder, rows, model)
        server.seen()
        began = time.perf_counter()
        with running(folder, document, command) as run:
            cpu = [sample.cpu for sample in watch(run, SAMPLE_SECONDS)][-1]
        wall = time.perf_counter() - began
        with Registry(folder / "registry").session() as session:
            made = dict(session.ask("select name, content_id from versions where name in (select name from datasets)").rows)
    return Measured(server.seen(), cpu, wall, made)


def step_by_step(file: Path) -> None:
    """Run a pipeline in this process, one step after another."""
    from engine.cli.progress import PlainProgress
    from engine.execution.cluster import Cluster
    from engine.pipeline.check import check
    from engine.running.run import run

    pipeline, registry = check(file), Registry(Path("registry"))
    observer = PlainProgress(Console(quiet=True))
    ray = Cluster(registry.location)
    ray.attach()  # the runs below use it, and only what starts Ray stops it
    try:
        for name in pipeline.steps:
            result = run(pipeline, registry, observer, select={name}, force=set())
            if result.state != "succeeded":
                sys.exit(result.error)
    finally:
        ray.stop()


def problems_of(case: Case, runs: dict[str, Measured]) -> list[str]:
    """What is wrong with the runs of a pipeline."""
    found = []
    judged, other = runs[JUDGED], next(run for name, run in runs.items() if name != JUDGED)
    if judged.share < case.goal:
        found.append(f"{JUDGED} reached {judged.share:.2f} of the ideal, and {case.goal} is the goal")
    found += [
        f"{name} had {run.seen['most_in_flight']} requests in flight, and {IN_FLIGHT} are allowed"
        for name, run in runs.items()
        if run.seen["most_in_flight"] > IN_FLIGHT
    ]
    if judged.seen["requests"] != other.seen["requests"] or round(judged.ideal - other.ideal, 6):
        found.append("the runs did not send the same requests")
    if judged.made != other.made:
        found.append(f"the runs made different datasets: {sorted({*judged.made.items()} ^ {*other.made.items()})}")
    return [f"{case.name}: {problem}" for problem in found]


def table_of(case: Case, runs: dict[str, Measured]) -> Table:
    """What was measured, a column for each run."""
    table = Table(case.name, *runs)
    table.add_row("calls", *(f"{run.seen['requests']:,}" for run in runs.values()))
    table.add_row("most in flight", *(str(run.seen["most_in_flight"]) for run in runs.values()))
    table.add_row("ideal, s", *(f"{run.ideal:.1f}" for run in runs.values()))
    table.add_row("first request to last answer, s", *(f"{run.seen['seconds']:.1f}" for run in runs.values()))
    table.add_row(f"share of the ideal (goal: {case.goal})", *(f"{run.share:.3f}" for run in runs.values()))
    table.add_row("whole process, s", *(f"{run.wall:.1f}" for run in runs.values()))
    for field, who in zip(Shares._fields, ("the driver", "the workers", "Ray's own processes"), strict=True):
        table.add_row(f"CPU of {who}, s", *(f"{getattr(run.cpu, field):.1f}" for run in runs.values()))
    table.add_row("CPU of all, ms a call", *(f"{run.cpu.all * 1000 / run.seen['requests']:.2f}" for run in runs.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4800, help="of the chain; PersonaMath has a quarter, with as many calls")
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one of the pipelines")
    parser.add_argument("--step-by-step", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step_by_step:
        step_by_step(options.step_by_step)
        return
    console, missed = Console(), list[str]()
    for case in CASES:
        if options.only not in (None, case.name):
            continue
        with Endpoint(latency=MEDIAN_SECONDS, sigma=SIGMA, answer=case.answer) as server:
            runs = {name: measure(case, options.rows, server, command) for name, command in LOOPS.items()}
        console.print(table_of(case, runs))
        missed += problems_of(case, runs)
    exit_with(missed, console)


if __name__ == "__main__":
    main()
