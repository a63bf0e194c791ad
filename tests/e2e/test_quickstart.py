"""What a newcomer runs first: offline, with the embedded model, from a checkout or an installed wheel."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from registry import Registry
from tests.conftest import Cli
from tests.docs.pages import engine_lines
from tests.engine.run_pipelines import ask

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_a_small_quickstart_runs(engine: Cli, workdir: Path) -> None:
    small = ("--set", "problems=4", "--set", "attempts=1", "--set", "train_steps=1")
    done = engine("run", "quickstart", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "quickstart/sft@1" in done.stdout
    assert "arithmetic" in done.stdout
    registry = Registry(workdir / ".engine")
    assert ask(registry, "select kind, rows from datasets where name = 'quickstart/sft'") == [("model", 1)]
    assert ask(registry, "select distinct model, role from llm_calls") == [("smollm2-135m-instruct", "teacher")]
    lines = [line for _, line in engine_lines("docs/quickstart.md") if line != "engine run quickstart"]
    assert len(lines) == 6
    for line in lines:
        shown = engine(*shlex.split(line, comments=True)[1:])
        assert shown.returncode == 0, (line, shown.stderr)
        assert shown.stdout, line
    again = json.loads(engine("run", "quickstart", *small, "--json").stdout)
    assert {step["outcome"] for step in again["steps"]} == {"hit"}


def test_the_wheel_contains_everything_it_needs(workdir: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(workdir / "dist"), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = (workdir / "dist").glob("posttrain_engine-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "registry/sql/views.sql",
        "pipelines/quickstart.yaml",
        "pipelines/personas.jsonl",
        "operators/math/answers/verify.py",
        "engine/py.typed",
    ):
        assert needed in names
    page = ROOT / "engine" / "page"
    for folder in ("templates", "static"):
        shipped = [path.relative_to(ROOT).as_posix() for path in (page / folder).rglob("*") if path.is_file()]
        assert not set(shipped) - set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    # Installed beside the checkout's own installation, the wheel must be what is imported.
    site = workdir / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = [
        sys.executable,
        "-c",
        "import engine, operators, registry; print(engine.__path__, operators.__path__, registry.__path__)",
    ]
    paths = subprocess.run(where, cwd=workdir, env=env, capture_output=True, text=True, check=True).stdout
    assert paths.count(str(site)) == 3
    for arguments in (["check", "quickstart"], ["ops"], ["plan", "quickstart", "--set", "problems=6"], ["schema"]):
        done = subprocess.run(
            [str(site / "bin" / "engine"), *arguments], cwd=workdir, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
