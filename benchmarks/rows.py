"""CPU time of a row on its way through a pipeline that does nothing: a source and three row operators that pass rows on.

    python -m benchmarks.rows [--rows 1000000]

Partitions run in this process, one after another, so that its CPU time is all there is: reading, calling the operator,
writing objects and lineage, content ids, the commit. Ray's own cost is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.jobs.messages import Failure, Job, Partition, Receipt
    from engine.running.result import StepResult
    from engine.spec.pipeline_spec import Resources

HERE = "benchmark_rows_operators"
OPERATORS = """
from collections.abc import AsyncIterator
from engine.operator import Record, operator

class BenchItem(Record):
    id: int
    text: str
    label: str | None = None

@operator(outputs=BenchItem)
async def pass_on(item: BenchItem, *, times: int = 1) -> AsyncIterator[BenchItem]:
    yield item
"""
PIPELINE = """
name: rows
datasets: {items: {type: BenchItem, path: items.jsonl}}
steps:
  first: {op: pass_on, in: items, with: {times: 1}}
  second: {op: pass_on, in: first, with: {times: 2}}
  third: {op: pass_on, in: second, with: {times: 3}}
"""


class OneProcess:
    """See engine.running.executor.Executor."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def workers_for(self, resources: Resources, **_: object) -> Resources:
        return resources.model_copy(update={"num_cpus": 1, "workers": 1})

    def run(self, job: Job, parts: list[Partition], resources: Resources) -> Iterator[Receipt | Failure]:
        from engine.worker.partition_worker import Worker

        worker = Worker(job)
        with asyncio.Runner() as runner:
            for part in parts:
                yield runner.run(worker.run(part))


class Clock:
    """Notes the CPU time at the end of each step."""

    def __init__(self) -> None:
        self.cpu = [time.process_time()]

    def message(self, text: str) -> None:
        print(text)

    def step_started(self, *_: object) -> None:
        if len(self.cpu) == 1:
            self.cpu.append(time.process_time())

    def step_advanced(self, *_: object) -> None:
        pass

    def step_finished(self, outcome: StepResult) -> None:
        self.cpu.append(time.process_time())


def install(folder: Path) -> None:
    """Put an installed package with the operator into the folder, and the folder on the path."""
    (folder / f"{HERE}.py").write_text(OPERATORS)
    package = folder / f"{HERE}-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {HERE}\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[engine.operators]\n{HERE} = {HERE}\n")
    sys.path.insert(0, str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install(folder)
        os.chdir(folder)
        with Path("items.jsonl").open("w") as file:
            for number in range(rows):
                file.write(json.dumps({"id": number, "text": f"the text of row {number}", "label": "a"}) + "\n")
        Path("p.yaml").write_text(PIPELINE)
        from engine.pipeline.check import check
        from engine.running.run import run
        from registry import Registry

        clock = Clock()
        result = run(
            check(Path("p.yaml")), Registry(folder / "registry"), clock, select=set(), force=set(), cluster=OneProcess()
        )
        assert result.state == "succeeded", result.error
        source, *steps = (after - before for before, after in zip(clock.cpu, clock.cpu[1:], strict=False))
        print(f"{rows:,} rows; CPU us a row: source {source / rows * 1e6:.1f}", end="")
        print(f", steps {', '.join(f'{step / rows * 1e6:.1f}' for step in steps)}; mean {sum(steps) / rows / 3 * 1e6:.1f}")
        print(f"content id {result.steps[-1].outputs[0].content_id}")


if __name__ == "__main__":
    main()
