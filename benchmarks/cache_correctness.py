"""How many model calls does an edit cost? `python -m benchmarks.cache_correctness`

Runs a pipeline to its end, makes one edit, and runs it again. Prints how many model calls the second run may send and how many a
counting server received, and how many partitions the second run executed. Each line of the table begins with the registry of a finished
run. Exits with 1 when a number of calls is not exact. The last edits are made to 10,000 rows. `tests/e2e/test_cache.py` asserts the
same table, those on fewer rows.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from engine.jobs.partitions import CALLS
from engine.jobs.receipts import COMMITTED
from tests.chat_server import ChatServer
from tests.processes import kill_tree

ROWS = 24
IN_FLIGHT = 4


@dataclass
class Work:
    """What a user has on disk: a pipeline, its data, and (for some edits) operators of their own."""

    pipeline: dict[str, Any]
    rows: list[dict[str, Any]]
    code: str = ""

    @property
    def model(self) -> dict[str, Any]:
        """The pipeline's only model."""
        found: dict[str, Any] = self.pipeline["models"]["teacher"]
        return found

    @property
    def steps(self) -> dict[str, Any]:
        """The pipeline's steps."""
        found: dict[str, Any] = self.pipeline["steps"]
        return found

    def write(self, folder: Path) -> Path:
        """Write everything into a folder; returns the pipeline file."""
        (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        (folder / "p.yaml").write_text(json.dumps(self.pipeline))
        if self.code:
            installed = folder / "site" / "own_ops-0.1.dist-info"
            installed.mkdir(parents=True, exist_ok=True)
            (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own-ops\nVersion: 0.1\n")
            (installed / "entry_points.txt").write_text("[engine.operators]\nown-ops = own_ops\n")
            (folder / "site" / "own_ops.py").write_text(self.code)
        return folder / "p.yaml"


def one_step(server: ChatServer, count: int = ROWS, in_flight: int = IN_FLIGHT) -> Work:
    """One step with one model call for each row."""
    model = {"provider": "openai", "model": "m", "base_url": server.base_url, "api_key_env": "BENCH_KEY"}
    pipeline = {
        "name": "edits",
        "models": {"teacher": {**model, "system": "Be brief.", "limits": {"concurrency": in_flight}}},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {"first": {"op": "regenerate_cot", "in": "problems"}},
    }
    rows = [{"question": f"What is {number}?", "answer": f"{number:05d}", "id": f"{number:05d}"} for number in range(count)]
    return Work(pipeline, rows)


def two_steps(server: ChatServer) -> Work:
    """Two steps with one model call for each row, each with its own prompt."""
    work = one_step(server)
    work.steps["second"] = {"op": "regenerate_cot", "in": "first.solved", "with": {"prompt": "Check this: {{ question }}"}}
    return work


def own_operator(server: ChatServer) -> Work:
    """A step with an operator of the user, which has a verifier that calls a helper."""
    work = one_step(server)
    work.steps["first"]["op"] = "own_solve"
    work.code = OWN_OPERATOR
    return work


def many_rows(count: int) -> Callable[[ChatServer], Work]:
    """The same single step on many rows."""
    return lambda server: one_step(server, count, in_flight=64)


def three_steps(count: int) -> Callable[[ChatServer], Work]:
    """A chain of three steps with one model call for each of many rows, each with its own prompt."""

    def begin(server: ChatServer) -> Work:
        work = one_step(server, count, in_flight=64)
        for name, before in (("second", "first"), ("third", "second")):
            prompt = f"The {name} time: {{{{ question }}}}"
            work.steps[name] = {"op": "regenerate_cot", "in": f"{before}.solved", "with": {"prompt": prompt}}
        return work

    return begin


@dataclass(frozen=True)
class Edit:
    """A change between two runs.

    Args:
        name: a name for the change.
        change: the function that makes the change.
        calls: the exact number of calls that the second run sends.
        start: the state before the edit.
        outcomes: the outcomes of the steps in the second run.
        rows_out: the number of rows of the last step, in the second run.
        partitions: the maximum number of partitions that the second run may execute; None if it does not matter.
    """

    name: str
    change: Callable[[Work], None]
    calls: int
    outcomes: tuple[str, ...]
    start: Callable[[ChatServer], Work] = one_step
    rows_out: int = ROWS
    partitions: int | None = None

    @property
    def on_data(self) -> bool:
        """Whether it changes data only, not code."""
        return self.start is not own_operator


def _model(**values: Any) -> Callable[[Work], None]:
    return lambda work: work.model.update(values)


def _with(step: str, **values: Any) -> Callable[[Work], None]:
    return lambda work: work.steps[step].setdefault("with", {}).update(values)


def _append(work: Work) -> None:
    work.rows += [{"question": f"What is {number}?", "answer": str(number)} for number in range(100, 110)]


def _insert(place: int, count: int) -> Callable[[Work], None]:
    rows = [{"question": f"What is {number}?", "answer": str(number)} for number in range(10**6, 10**6 + count)]

    def change(work: Work) -> None:
        work.rows[place:place] = rows

    return change


def _edit_row(work: Work, place: int = 5) -> None:
    work.rows[place]["question"] = f"And what is {int(work.rows[place]['answer'])}?"


def _duplicate(work: Work) -> None:
    work.rows += [dict(work.rows[0]), dict(work.rows[7])]


def _how(work: Work) -> None:
    work.model.update(limits={"concurrency": 2, "requests_per_minute": 100_000}, retries=1, timeout=9)
    work.model.update(price={"input": 1, "output": 2}, budget_usd=50, max_calls=999, api_key_env="OTHER_KEY")
    work.steps["first"]["resources"] = {"workers": 2, "num_cpus": 0.5}


def _base_url(work: Work) -> None:
    work.model["base_url"] = work.model["base_url"].replace("127.0.0.1", "localhost")


def _wrong_then_right(server: ChatServer) -> Work:
    work = one_step(server)
    for row in work.rows:
        row["answer"] = "7000"  # no sample is right, so all attempts are made
    return work


def _code(old: str, new: str) -> Callable[[Work], None]:
    def change(work: Work) -> None:
        assert old in work.code, old
        work.code = work.code.replace(old, new)

    return change


def downstream(work: Work) -> None:
    """Add a step without model calls."""
    work.steps["rows"] = {"op": "to_sft", "in": "first.solved"}


EDITS = (
    Edit("nothing", lambda work: None, 0, ("hit",)),
    Edit("append 10 rows", _append, 10, ("ran",), rows_out=ROWS + 10),
    Edit("edit one row in place, same path", _edit_row, 1, ("ran",)),
    Edit("reorder rows", lambda work: work.rows.reverse(), 0, ("ran",)),
    Edit("duplicate two rows", _duplicate, 0, ("ran",), rows_out=ROWS + 2),
    Edit("add a downstream step", downstream, 0, ("hit", "ran")),
    Edit("change the second of two prompts", _with("second", prompt="Again: {{ question }}"), ROWS, ("hit", "ran"), two_steps),
    Edit("change the first of two prompts", _with("first", prompt="Say: {{ question }}"), ROWS, ("ran", "hit"), two_steps),
    Edit("change the system prompt", _model(system="Be thorough."), ROWS, ("ran",)),
    Edit("change temperature", _model(temperature=0.1), ROWS, ("ran",)),
    Edit("change seed", _model(seed=5), ROWS, ("ran",)),
    Edit("change max_tokens", _model(max_tokens=99), ROWS, ("ran",)),
    Edit("change model", _model(model="other"), ROWS, ("ran",)),
    Edit("change base_url", _base_url, ROWS, ("ran",)),
    Edit("change concurrency, limits, retries, timeout, price, budget, workers, API key", _how, 0, ("hit",)),
    Edit("attempts 1 to 3", _with("first", attempts=3), 2 * ROWS, ("ran",), _wrong_then_right),
    Edit("edit the verifier", _code("len(text) > 2", "len(text) > 1"), 0, ("ran",), own_operator),
    Edit("edit a helper of the verifier", _code("text.strip()", "text.strip().lower()"), 0, ("ran",), own_operator),
    Edit("edit a comment", _code("# a comment", "# another comment, and a longer one"), 0, ("hit",), own_operator),
)


def large_edits(rows: int, added: int) -> tuple[Edit, ...]:
    """Edits of few rows among many: their cost depends on the few."""
    start, some = many_rows(rows), rows // 10
    # The rows added, and what remains of the partitions that they fall into.
    most = added // CALLS.least + 4
    places = (("in front of", 0), ("in the middle of", rows // 2), ("behind", rows))
    return (
        *(
            Edit(f"add {added} rows {where} {rows:,}", _insert(at, added), added, ("resumed",), start, rows + added, most)
            for where, at in places
        ),
        Edit(
            f"edit one of {some:,} rows, three steps",
            lambda work: _edit_row(work, some // 2),
            3,
            ("resumed",) * 3 if some > CALLS.most else ("ran",) * 3,
            three_steps(some),
            some,
            3,
        ),
    )


LARGE_EDITS = large_edits(10_000, 100)


def answer(prompt: str, _: int) -> str:
    """The counting server's answer: the last number of the prompt."""
    return f"It is \\boxed{{{re.findall(r'[0-9]+', prompt)[-1]}}}."


def environment(folder: Path) -> dict[str, str]:
    """The environment variables: where the engine and the user's operators are found, and API keys."""
    paths = [str(folder / "site"), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "BENCH_KEY": "one", "OTHER_KEY": "two"}


def start(folder: Path) -> subprocess.Popen[str]:
    """`engine run` in a folder."""
    command = [sys.executable, "-m", "engine.cli", "run", "p.yaml", "--json"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=pipe, stderr=pipe, text=True)


def engine_run(folder: Path) -> dict[str, Any]:
    """Run `engine run` to its end; returns its summary."""
    process = start(folder)
    out, err = process.communicate(timeout=300)
    if process.returncode:
        raise AssertionError(f"engine run failed: {out}\n{err}")
    summary: dict[str, Any] = json.loads(out)
    return summary


class SecondRun(NamedTuple):
    """What the run after an edit did: calls sent, partitions executed, and its summary."""

    calls: int
    partitions: int
    summary: dict[str, Any]


def second_run(edit: Edit, work: Work, folder: Path, server: ChatServer, run: Callable[[Path], dict[str, Any]]) -> SecondRun:
    """Make the edit in a folder where the pipeline has run, and run again."""
    calls, receipts = len(server.requests), _receipts(folder)
    work = copy.deepcopy(work)
    edit.change(work)
    work.write(folder)
    summary = run(folder)
    return SecondRun(len(server.requests) - calls, len(_receipts(folder) - receipts), summary)


def first_run(edit: Edit, folder: Path, server: ChatServer, run: Callable[[Path], dict[str, Any]]) -> Work:
    """Run the state before the edit."""
    server.answer = answer
    work = edit.start(server)
    work.write(folder)
    run(folder)
    return work


def _receipts(folder: Path) -> set[tuple[str, int]]:
    """The receipts of finished partitions in the folder's registry, and when each was written."""
    files = (folder / ".engine" / "receipts").glob("*/*.json")
    return {(str(file), file.stat().st_mtime_ns) for file in files if file.name != COMMITTED}


def calls_after_a_kill(folder: Path, server: ChatServer) -> SecondRun:
    """Kill a run when half of its calls are answered and the next ones hang; add a step; run."""
    held = threading.Event()
    hanging = threading.Semaphore(0)

    def hold(body: dict[str, Any]) -> float:
        if len(server.requests) <= ROWS // 2 or held.is_set():
            return 0.0
        hanging.release()
        return 600.0

    server.answer, server.hold = answer, hold
    work = one_step(server)
    work.write(folder)
    process = start(folder)
    for _ in range(IN_FLIGHT):  # a place among the requests in flight is free once the answer before it is durable
        hanging.acquire(timeout=120)
    kill_tree(process)
    held.set()
    edit = Edit("kill -9 at half, add a downstream step", downstream, ROWS // 2, ("ran", "ran"))
    return second_run(edit, work, folder, server, engine_run)


def main() -> None:
    table = Table("edit between two runs", "calls", "sent", "parts run", "steps", "rows", "")
    wrong = 0

    def line(name: str, expected: int, outcomes: tuple[str, ...], rows: int, second: SecondRun, most: int | None = None) -> int:
        became = tuple(step["outcome"] for step in second.summary["steps"])
        rows_out = second.summary["steps"][-1]["rows_out"]
        exact = (second.calls, became, rows_out) == (expected, outcomes, rows) and (most is None or second.partitions <= most)
        verdict = "exact" if exact else "WRONG"
        table.add_row(
            *(name, str(expected), str(second.calls), str(second.partitions), ", ".join(became), f"{rows_out:,}", verdict)
        )
        return int(not exact)

    for _, edits in groupby((*EDITS, *LARGE_EDITS), key=lambda edit: edit.start):
        with ChatServer() as server, tempfile.TemporaryDirectory() as name:
            folder, kept = Path(name) / "work", Path(name) / "kept"
            folder.mkdir()
            work = None
            for edit in edits:
                if work is None:
                    work = first_run(edit, folder, server, engine_run)
                    shutil.copytree(folder, kept)
                else:
                    shutil.rmtree(folder)
                    shutil.copytree(kept, folder)
                second = second_run(edit, work, folder, server, engine_run)
                wrong += line(edit.name, edit.calls, edit.outcomes, edit.rows_out, second, edit.partitions)
    with ChatServer() as server, tempfile.TemporaryDirectory() as name:
        second = calls_after_a_kill(Path(name), server)
        wrong += line("kill -9 at half, add a downstream step", ROWS // 2, ("ran", "ran"), ROWS, second)
    Console().print(table)
    sys.exit(bool(wrong))


OWN_OPERATOR = '''
"""An operator of one's own."""

from collections.abc import AsyncIterator

from engine.operator import ChatModel, operator
from operators.records import MathProblem


@operator
async def own_solve(problem: MathProblem, teacher: ChatModel) -> AsyncIterator[MathProblem]:
    """Ask once, keep what verifies."""
    answer = await teacher.chat(problem.question)
    if verified(answer.text):  # a comment
        yield problem


def verified(text: str) -> bool:
    return len(text) > 2 and bool(stripped(text))


def stripped(text: str) -> str:
    return text.strip()
'''


if __name__ == "__main__":
    main()
