"""Ray starts in any working directory, is reachable only from this machine, and reports problems at once."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.errors import EngineError
from engine.execution.cluster import Cluster
from engine.execution.ray_environment import LONGEST_TEMP, check_cluster, temporary_folder

pytestmark = pytest.mark.ray

SHADOWS = ["engine.py", "registry.py", "numpy.py", "pydantic.py", "pyarrow.py", "ray.py", "json.py", "operators/mine.py"]


def test_files_named_like_modules_and_a_long_temporary_folder_do_no_harm(workdir: Path) -> None:
    """Workers import what the driver imports, whatever files the user has."""
    for name in SHADOWS:
        (workdir / name).parent.mkdir(exist_ok=True)
        (workdir / name).write_text(f"raise RuntimeError('{name} of the user was imported')\n")
    (workdir / "words.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (workdir / "p.yaml").write_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {where: {op: where, in: words}}}"
    )
    long = workdir / ("a_long_folder_as_batch_systems_make_them" * 2)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "engine.cli", "run", "p.yaml", "--json"],
        cwd=workdir,
        env={**os.environ, "TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"][0]["rows_out"] == 2


def test_a_private_ray_listens_on_loopback_only(ray_session: None) -> None:
    mine = psutil.Process()
    listening = [
        connection.laddr
        for process in [mine, *mine.children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    outside = [at for at in listening if not ipaddress.ip_address(at.ip.removeprefix("::ffff:")).is_loopback]
    assert outside == []


def test_an_address_without_a_listener_is_reported_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(EngineError, match=rf"cannot reach the Ray cluster at {address}: Connection refused"):
            check_cluster(address)


def test_an_address_of_something_other_than_ray_is_reported_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.execution.ray_environment._ATTACH_SECONDS", 3.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(EngineError, match="no answer within 3 s; it may not be a Ray cluster"),
    ):
        check_cluster(f"127.0.0.1:{silent.getsockname()[1]}")


def test_a_temporary_folder_that_is_too_long_is_skipped_unless_it_was_requested(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = workdir / ("x" * (LONGEST_TEMP + 1))
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    assert temporary_folder() in (Path("/tmp"), Path("/var/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(EngineError, match=f"at most {LONGEST_TEMP} bytes.*RAY_TMPDIR is"):
        temporary_folder()
    monkeypatch.setenv("RAY_TMPDIR", str(workdir / "missing"))
    with pytest.raises(EngineError, match="Set RAY_TMPDIR"):
        temporary_folder()


def test_whatever_keeps_ray_from_starting_is_no_bug_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail(**options: Any) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does it

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    cluster = Cluster("")
    with pytest.raises(EngineError, match="Ray does not start on this machine: The current node timed out during startup"):
        cluster.attach()
    cluster.stop()
