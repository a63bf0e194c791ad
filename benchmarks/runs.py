"""`engine run` in a process and a folder of its own, for benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.endpoint import Endpoint
from benchmarks.footprint import watch

ENGINE_RUN = ("-m", "engine.cli", "--registry", "registry", "run", "pipeline.yaml", "--json")


@contextmanager
def running(folder: Path, document: dict[str, Any], command: Sequence[str] = ENGINE_RUN) -> Iterator[subprocess.Popen[bytes]]:
    """`engine run` of a pipeline in a folder, where its registry is then, too; waits for its end.

    Raises SystemExit, with its output, if it fails. Its standard output is in the file `stdout`: see `outcome`.

    Args:
        folder: the folder to run in.
        document: the pipeline, as YAML has it; it is in the file `pipeline.yaml`.
        command: Python's arguments, to run something other than `engine run`.
    """
    (folder / "pipeline.yaml").write_text(json.dumps(document))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        run = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env={**os.environ, "PYTHONPATH": path}, stdout=out, stderr=err
        )
        try:
            yield run
            run.wait()
        finally:
            run.terminate()
            run.wait()
    if run.returncode:
        raise SystemExit((folder / "stderr").read_text() + (folder / "stdout").read_text())


def outcome(folder: Path) -> dict[str, Any]:
    """The output of `engine run --json` in that folder."""
    printed: dict[str, Any] = json.loads((folder / "stdout").read_text())
    return printed


def engine_run(server: Endpoint, rows: int, *, with_cpu: bool = False, **model: Any) -> dict[str, Any]:
    """Run `regenerate_cot` on numbered problems, check that every row is answered; returns what the server saw.

    Args:
        server: the server to ask.
        rows: problems, each of which is one request.
        with_cpu: also return `cpu`, the seconds of CPU of all processes that the command started, as footprint.Shares.
        model: keys of the model.
    """
    used: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems = [json.dumps({"question": f"What is {number}?", "answer": str(number)}) for number in range(rows)]
        (folder / "problems.jsonl").write_text("\n".join(problems))
        teacher = {"provider": "openai", "model": "m", "base_url": server.base_url, **model}
        document = {
            "name": "speed",
            "models": {"teacher": teacher},
            "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
            "steps": {"cot": {"op": "regenerate_cot", "in": "problems"}},
        }
        server.seen()
        with running(folder, document) as run:
            for sample in watch(run) if with_cpu else ():
                used["cpu"] = sample.cpu
        [step] = outcome(folder)["steps"]
        assert step["rows_out"] == rows, step
    return server.seen() | used
