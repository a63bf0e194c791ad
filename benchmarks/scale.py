"""Does a large run stay cheap? `python -m benchmarks.scale [--problems 100000]`

Runs PersonaMath's first stage with `engine run`, six model calls a problem, against a server on this machine that answers at once:
`regenerate_cot` (the first sample is wrong, the second right), then `persona_augment` with two personas (a rewrite and its solution
each). Prints

* the CPU that a call costs, of the driver, the workers and Ray's own processes, from the start of the command to its end. Beside it, in
  the same run, that of a bare aiohttp loop and of the engine's client with its journal on the same requests; the rest is what Ray, the
  operators, lineage and the commit cost. The server's CPU is in none of them;
* the highest memory in each quarter of both steps, and during their commits;
* disk usage afterwards.

Exits with 1 when the run costs 2 ms of CPU a call or more beyond the bare loop, or when memory is not flat: higher in the last quarter of
a step than in its second one, by a fifth and 100 MB. Starting takes about 12 s of CPU whatever the size, so the goal is out of reach below
some 3,000 problems. The temporary folder (TMPDIR) needs 6 KB a problem.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.endpoint import Endpoint
from benchmarks.footprint import Sample, watch
from benchmarks.goals import exit_with
from benchmarks.runs import outcome, running
from benchmarks.warehouse_problems import is_original, problems, retold, worked
from engine.llm.chat import CallLog, ChatModel, current_log
from engine.llm.client import ModelClient
from engine.llm.journal.answers import Journal
from engine.llm.limits.governor import Governor
from engine.llm.providers.openai import OpenAIProvider
from engine.llm.types.model_spec import ModelSpec
from engine.operator.templates.prompts import render
from operators.math.persona_augment import REWRITE_PROMPT
from operators.math.regenerate_cot import PROMPT as SOLVE_PROMPT

PERSONAS = Path(__file__).parents[1] / "pipelines" / "personas.jsonl"
CALLS = 6
"""The calls of a problem: two samples of a solution, and for each of two personas a rewrite and its solution."""
MOST_MS = 2.0
MOST_GROWTH, MOST_GROWN_BYTES = 1.2, 100e6
SAMPLE_SECONDS = 0.5
COMPARED = 12_000
"""Requests that the bare loop and the client send."""
SEED = 7

# -- what is asked, and what the server answers -----------------------------------------------------------------------


def answer(body: dict[str, Any]) -> str:
    """The text for a request: a rewrite where it names a persona, else a solution; wrong for the first sample of a problem."""
    before, _, problem = body["messages"][-1]["content"].rpartition("Problem: ")
    _, named, persona = before.rpartition("Persona: ")
    if named:
        return retold(problem, persona)
    return worked(problem, wrong=is_original(problem) and body["seed"] == SEED)


def requests() -> Iterator[tuple[str, int]]:
    """(prompt, sample) like those that a run sends, of other problems."""
    told = [json.loads(line)["persona"] for line in PERSONAS.read_text().splitlines()]
    for number, problem in enumerate(problems(count(10**6))):
        solve = render(SOLVE_PROMPT, question=problem["question"])
        yield from ((solve, 0), (solve, 1))
        for turn in (0, 1):
            persona = told[(2 * number + turn) % len(told)]
            rewrite = render(REWRITE_PROMPT, question=problem["question"], persona=persona)
            retold = answer({"messages": [{"content": rewrite}]})
            yield from ((rewrite, 0), (render(SOLVE_PROMPT, question=retold), 0))


def pipeline(server: Endpoint) -> dict[str, Any]:
    """The pipeline, as its YAML has it."""
    return {
        "name": "scale",
        "models": {"teacher": model(server)},
        "datasets": {
            "problems": {"type": "MathProblem", "path": "problems.jsonl"},
            "personas": {"type": "Persona", "path": str(PERSONAS)},
        },
        "steps": {
            "cot": {"op": "regenerate_cot", "in": "problems", "with": {"attempts": 2}},
            "augment": {
                "op": "persona_augment",
                "in": {"solution": "cot.solved", "personas": "personas"},
                "with": {"personas_per_problem": 2},
            },
        },
    }


def model(server: Endpoint) -> dict[str, Any]:
    """The pipeline's entry for the teacher."""
    return {"provider": "openai", "model": "m", "base_url": server.base_url, "seed": SEED}


# -- what it costs ----------------------------------------------------------------------------------------------------


async def cpu_ms(ask: Callable[[str, int], Awaitable[object]], concurrency: int) -> float:
    """Milliseconds of this process's CPU a request, for requests like those of a run."""
    asked = list(islice(requests(), COMPARED))
    left = iter(asked)

    async def worker() -> None:
        for prompt, sample in left:
            await ask(prompt, sample)

    started = time.process_time()
    await asyncio.gather(*[worker() for _ in range(concurrency)])
    return (time.process_time() - started) * 1000 / len(asked)


async def bare_aiohttp(server: Endpoint, spec: ModelSpec) -> float:
    """A POST and its JSON, nothing else."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=spec.limits.concurrency)) as session:

        async def ask(prompt: str, sample: int) -> None:
            body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "temperature": 0.7, "max_tokens": 512}
            async with session.post(f"{server.base_url}/chat/completions", json=body | {"seed": SEED + sample}) as response:
                assert (await response.json())["choices"]

        return await cpu_ms(ask, spec.limits.concurrency)


async def client_and_journal(spec: ModelSpec, folder: Path) -> float:
    """The engine's own client, limits and journal, without operator, lineage and Ray."""
    journal = Journal(folder)
    shared = ModelClient(spec, spec.model, journal, Governor(spec), lambda: OpenAIProvider(spec, journal))
    teacher = ChatModel("teacher", shared)

    async def ask(prompt: str, sample: int) -> None:
        current_log.set(CallLog())
        await teacher.chat(prompt, sample=sample)

    try:
        return await cpu_ms(ask, spec.limits.concurrency)
    finally:
        await shared.close()
        journal.close()


# -- how it went ------------------------------------------------------------------------------------------------------


class Phase(NamedTuple):
    """A part of the run: its name, and the times at which it begins and ends."""

    name: str
    start: float
    stop: float

    def within(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples of this part; the last one before its end where it is too short to have any."""
        return [s for s in samples if self.start <= s.at <= self.stop] or [s for s in samples if s.at <= self.stop][-1:]


def phases(folder: Path, samples: list[Sample]) -> list[Phase]:
    """The quarters of each step, and the commit behind it, by what the workers left behind."""
    steps = []
    for receipts in (path for path in (folder / "registry/receipts").iterdir() if path.is_dir()):
        begun = min((file.stat().st_mtime for file in receipts.glob("*.begun")), default=None)
        if begun is not None:
            steps.append((begun, max(file.stat().st_mtime for file in receipts.glob("[0-9]*-[0-9]*.json"))))
    steps.sort()
    ends = [begun for begun, _ in steps[1:]] + [samples[-1].at]
    found = [Phase("start", samples[0].at, steps[0][0])]
    for name, (begun, done), end in zip(("cot", "augment"), steps, ends, strict=True):
        quarter = (done - begun) / 4
        found += [Phase(f"{name}, quarter {n + 1}", begun + n * quarter, begun + (n + 1) * quarter) for n in range(4)]
        found.append(Phase(f"{name}, commit", done, end))
    return found


def growth(parts: Sequence[Phase], samples: Sequence[Sample]) -> list[str]:
    """The steps whose memory is not flat: higher in the last quarter than in the second one."""
    most = {part.name: max(sample.memory.all for sample in part.within(samples)) for part in parts}
    return [
        f"the memory of {step} grew from {most[f'{step}, quarter 2'] / 1e6:,.0f} to {most[f'{step}, quarter 4'] / 1e6:,.0f} MB"
        for step in ("cot", "augment")
        if most[f"{step}, quarter 4"] > MOST_GROWTH * most[f"{step}, quarter 2"] + MOST_GROWN_BYTES
    ]


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def cost_table(samples: Sequence[Sample], calls: int, bare: float, client: float) -> tuple[Table, float]:
    """CPU a call by who uses it; and what the run costs beyond the bare loop."""
    table = Table(
        "CPU of", "ms a call", "of bare aiohttp", title=f"{calls:,} calls, {os.cpu_count()} CPUs", title_justify="left"
    )
    used = samples[-1].cpu
    ran = {who: seconds * 1000 / calls for who, seconds in used._asdict().items()}
    rows = {
        "bare aiohttp": bare,
        "the engine's client and journal": client,
        "engine run, workers": ran["workers"],
        "engine run, driver": ran["driver"],
        "engine run, Ray's own": ran["ray"],
        "engine run, all": sum(ran.values()),
        "engine run, beyond bare aiohttp": sum(ran.values()) - bare,
        "engine run, beyond client and journal": sum(ran.values()) - client,
    }
    for what, cost in rows.items():
        table.add_row(what, f"{cost:.3f}", f"{cost / bare:.2f}")
    return table, rows["engine run, beyond bare aiohttp"]


def memory_table(parts: Sequence[Phase], samples: Sequence[Sample]) -> Table:
    """The peak memory of each part of the run, and the CPU that it took."""
    table = Table("phase", "s", "s of CPU", "driver", "workers", "Ray's own", "together", title_justify="left")
    table.title = "the most resident memory, MB"
    for part in parts:
        within = part.within(samples)
        most = [max(getattr(sample.memory, who) for sample in within) for who in ("driver", "workers", "ray", "all")]
        cpu = within[-1].cpu.all - within[0].cpu.all
        table.add_row(part.name, f"{part.stop - part.start:.0f}", f"{cpu:.0f}", *(f"{each / 1e6:,.0f}" for each in most))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100_000)
    rows = parser.parse_args().problems
    console = Console()
    with tempfile.TemporaryDirectory() as name, Endpoint(answer="benchmarks.scale:answer") as server:
        folder = Path(name)
        spec = ModelSpec.model_validate(model(server))
        bare = asyncio.run(bare_aiohttp(server, spec))
        client = asyncio.run(client_and_journal(spec, folder / "client"))
        with (folder / "problems.jsonl").open("w") as out:
            out.writelines(json.dumps(problem) + "\n" for problem in problems(range(rows)))
        server.seen()
        with running(folder, pipeline(server)) as run:
            samples = list(watch(run, SAMPLE_SECONDS))
        seen = server.seen()
        made = [step["outputs"] for step in outcome(folder)["steps"]]
        assert seen["answered"] == seen["requests"] == CALLS * rows, seen
        assert made == [
            {"scale/cot.solved@1": rows, "scale/cot.unsolved@1": 0},
            {"scale/augment.solved@1": 2 * rows, "scale/augment.rejected@1": 0},
        ], made
        table, beyond = cost_table(samples, seen["answered"], bare, client)
        parts = phases(folder, samples)
        console.print(table, memory_table(parts, samples))
        registry = folder / "registry"
        disk = {what: size(registry / what) / 1e6 for what in ("journal", "objects", "receipts", "manifests")}
    console.print(
        f"{seen['answered'] / sum(part.stop - part.start for part in parts if 'quarter' in part.name):,.0f} calls/s while steps ran"
    )
    console.print("on disk: " + ", ".join(f"{what} {megabytes:,.1f} MB" for what, megabytes in disk.items()))
    missed = growth(parts, samples)
    if beyond >= MOST_MS:
        missed.append(f"{beyond:.2f} ms of CPU a call beyond bare aiohttp, and {MOST_MS:g} is the goal")
    exit_with(missed, console)


if __name__ == "__main__":
    main()
