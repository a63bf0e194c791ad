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
# They have to find `tests` as well, for actors that the tests define.
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([SITE, ROOT, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)

# API keys that the tests' pipelines name; Ray's workers inherit them.
os.environ.update({"BENCH_KEY": "one", "OTHER_KEY": "two"})

# Hypothesis fails an example that takes longer than 200 ms, and on a busy machine any example may.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Two test processes share two cores, so torch's threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Keep compiled modules even if the environment says otherwise: hundreds of processes would compile them again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Tests use no network: no hub, no telemetry.
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"})


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests their own cache for one session. xdist's workers start later and share it, so models are built once."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tempfile.mkdtemp(prefix="engine-tests-cache-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ.update({"ENGINE_CACHE": folder, "MPLCONFIGDIR": f"{folder}/matplotlib"})


@pytest.fixture(autouse=True, scope="session")
def _runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs in tests share limits only with each other, and leave nothing in the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(autouse=True)
def _csv_limit() -> Iterator[None]:
    """Reading a CSV file sets the field limit of the whole process. Undo that, so that a small limit affects one test only."""
    limit = csv.field_size_limit()
    yield
    csv.field_size_limit(limit)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the working directory of the test."""
    monkeypatch.chdir(tmp_path)
    for name in ("ENGINE_REGISTRY", "ENGINE_RAY_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def registry(workdir: Path) -> Registry:
    """The registry in the test's working directory."""
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
    """Pipelines that the test runs with `run_text` have their workers in this process. See tests/in_process.py."""
    from tests.in_process import InProcess

    monkeypatch.setattr("tests.engine.run_pipelines.new_cluster", lambda location: InProcess(registry=Registry(location)))


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a pipeline that it runs with `run_text` needs workers."""
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
