"""`engine run` of `regenerate_cot` on numbered problems against an Endpoint, for benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.endpoint import Endpoint


def engine_run(server: Endpoint, rows: int, **model: Any) -> dict[str, Any]:
    """Run in a process and a folder of their own, check that every row is answered; gives what the server saw."""
    with tempfile.TemporaryDirectory() as folder:
        problems = [json.dumps({"question": f"What is {number}?", "answer": str(number)}) for number in range(rows)]
        Path(folder, "problems.jsonl").write_text("\n".join(problems))
        teacher = {"provider": "openai", "model": "m", "base_url": server.base_url, **model}
        document = {
            "name": "speed",
            "models": {"teacher": teacher},
            "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
            "steps": {"cot": {"op": "regenerate_cot", "in": "problems"}},
        }
        Path(folder, "speed.yaml").write_text(json.dumps(document))
        command = [sys.executable, "-m", "engine.cli", "run", "speed.yaml", "--json"]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        server.seen()
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        [step] = json.loads(done.stdout)["steps"]
        assert step["rows_out"] == rows, step
    return server.seen()
