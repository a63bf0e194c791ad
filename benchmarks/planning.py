"""What `engine plan` costs on a registry with many versions: CPU of the command, with 1 and with 1,000 of them.

`python -m benchmarks.planning [--versions 1000] [--datasets 20] [--code FOLDER --python PYTHON]`. The pipeline has a dataset and a step for
each of `--datasets`, none of them in the registry, so planning looks every one of them up. `--code` measures the engine of
another checkout, with the Python that it is installed for.

Goal: on 1,000 versions, the plan takes at most 1.1 times the CPU that it takes on one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from registry import DataObject, Draft, Registry, StepRun

GOAL = 1.1
STEPS = 20
"""The datasets over which the versions are spread."""


def fill(root: Path, versions: int) -> None:
    """Make a registry with that many versions of another pipeline's steps."""
    registry = Registry(root)
    stored = registry.store.put_bytes(b"rows")
    part = DataObject(sha256=stored.sha256, rows=1, bytes=stored.bytes)
    drafts = [
        Draft(
            name=f"other/step{number % STEPS}",
            kind="dataset",
            type="MathProblem",
            fields={"question": "str", "answer": "str"},
            content_id=f"{number:064x}",
            pipeline="other",
            step=f"step{number % STEPS}",
            op="dedup",
            output="kept",
            step_key=f"{number:064x}",
            key_object=part,
            data=(part,),
        )
        for number in range(versions)
    ]
    run = registry.catalog.begin_run("other", {})
    registry.catalog.commit(drafts, run, StepRun(step="step", op="dedup", outcome="ran"))
    registry.catalog.end_run(run, "succeeded")


def write_pipeline(folder: Path, datasets: int) -> Path:
    """A pipeline of datasets with five rows each, and a step for each of them."""
    names = [f"d{number}" for number in range(datasets)]
    for name in names:
        rows = ({"question": f"{name}: {number} + 1?", "answer": str(number + 1)} for number in range(5))
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    document = {
        "name": "planned",
        "datasets": {name: {"type": "MathProblem", "path": f"{name}.jsonl"} for name in names},
        "steps": {f"of_{name}": {"op": "dedup", "in": name, "with": {"method": "exact"}} for name in names},
    }
    file = folder / "planned.yaml"
    file.write_text(json.dumps(document))
    return file


def cpu_of_plan(python: str, code: Path, pipeline: Path, registry: Path) -> float:
    """Seconds of CPU that the command takes; the less of two tries."""
    command = [python, "-m", "engine.cli", "--registry", str(registry), "plan", str(pipeline)]
    env = {**os.environ, "PYTHONPATH": str(code)}
    found = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=pipeline.parent, env=env, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main() -> None:
    """Print both figures. The exit code is 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--datasets", type=int, default=20)
    parser.add_argument("--code", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--python", default=sys.executable)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pipeline = write_pipeline(folder, chosen.datasets)
        for versions in (1, chosen.versions):
            fill(folder / f"registry-{versions}", versions)
        few, many = (
            cpu_of_plan(chosen.python, chosen.code.absolute(), pipeline, folder / f"registry-{versions}")
            for versions in (1, chosen.versions)
        )
    print(f"engine plan, {chosen.datasets} datasets and {chosen.datasets} steps")
    print(f"  registry with 1 version:            {few:6.2f} s of CPU")
    print(f"  registry with {chosen.versions:,} versions:      {many:6.2f} s of CPU, {many / few:.2f} times (goal: {GOAL})")
    sys.exit(many / few > GOAL)


if __name__ == "__main__":
    main()
