"""Shared by all tests: a real chat server, a tiny real model, folders of their own, Ray started once."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from registry import Registry
from tests.chat_server import ChatServer

pytest_plugins = ("tests.tiers",)

# `tests/site` plays an installed package with operators of its own; Ray's workers and subprocesses see it, too.
SITE = str(Path(__file__).parent / "site")
sys.path.insert(0, SITE)
# So do the tests' own actors, which are in `tests`.
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([SITE, ROOT, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)

# Keys that pipelines of tests name; Ray's workers have them from here.
os.environ.update({"BENCH_KEY": "one", "OTHER_KEY": "two"})

# Hypothesis fails an example that takes 200 ms, and a busy machine takes that for anything.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Two processes of tests share two cores: threads of torch would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Compiled modules are kept even where a container's settings say not to: hundreds of processes would compile them again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No test may reach out: no hub, no telemetry.
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"})


def pytest_configure(config: pytest.Config) -> None:
    """Tests have a cache of their own, for one session. xdist's workers, which start later, share it: models are built once."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tempfile.mkdtemp(prefix="engine-tests-cache-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ.update({"ENGINE_CACHE": folder, "MPLCONFIGDIR": f"{folder}/matplotlib"})


@pytest.fixture(autouse=True, scope="session")
def _runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of tests share limits among themselves only, and leave nothing in the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(autouse=True)
def _csv_limit() -> Iterator[None]:
    """Reading a CSV file sets the longest field for the whole process: a test with a small limit keeps it to itself."""
    limit = csv.field_size_limit()
    yield
    csv.field_size_limit(limit)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the test stands in."""
    monkeypatch.chdir(tmp_path)
    for name in ("ENGINE_REGISTRY", "ENGINE_RAY_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def registry(workdir: Path) -> Registry:
    """The registry where the test stands."""
    return Registry(workdir / ".engine")


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """An OpenAI-compatible server on loopback that counts its requests."""
    with ChatServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server with a bucket, on loopback; one for all tests, because clients remember it."""
    from tests.s3_server import s3_server

    with s3_server() as address:
        yield address


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray, once for all tests that run pipelines in this process."""
    import ray

    from engine.execution.cluster import Cluster

    cluster = Cluster("")
    cluster.attach()
    yield
    cluster.stop()
    assert not ray.is_initialized()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines that the test runs with `run_text` have their workers in this process; see tests/in_process.py."""
    from tests.in_process import InProcess

    monkeypatch.setattr("tests.engine.run_pipelines.new_cluster", lambda location: InProcess(registry=Registry(location)))


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test when a pipeline that it runs with `run_text` wants workers."""
    from tests.in_process import Unused

    monkeypatch.setattr("tests.engine.run_pipelines.new_cluster", lambda _: Unused())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real Llama of about 100,000 random weights, a tokenizer and a chat template."""
    from tests.tiny_model import build

    folder = tmp_path_factory.mktemp("tiny-model")
    build(folder)
    return folder


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def engine(workdir: Path) -> Cli:
    """Runs the `engine` command in a process of its own, in the test's folder."""

    def run(*arguments: str, env: dict[str, str] | None = None, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "engine.cli", *arguments],
            cwd=workdir,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
