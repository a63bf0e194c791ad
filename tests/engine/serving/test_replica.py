"""One server on this machine: started, watched, restarted, and ended with all its children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.llm.types.serve_spec import ServeSpec
from engine.serving.guarded_process import GuardedProcess
from engine.serving.health import free_port
from engine.serving.launch import Launch, Served, Status
from engine.serving.replica import Replica
from registry import Registry
from tests import scripted_server

pytestmark = pytest.mark.proof

SERVER = scripted_server.__file__
Start = Callable[..., Replica]


@pytest.fixture
def start(workdir: Path) -> Iterator[Start]:
    """Start replicas; all are stopped in the end."""
    started: list[Replica] = []

    def make(*options: str, **serve: Any) -> Replica:
        command = serve.pop("command", ("{python}", SERVER, "--port", "{port}", *options))
        serve.setdefault("python", sys.executable if "{python}" in command else None)
        spec = ServeSpec(command=tuple(command), **serve)
        models = (Served(model="local", name="test-model", weights=None),)
        launch = Launch(models=models, serve=spec, number=1, log=workdir / "runs" / "1.log")
        started.append(Replica(launch, "127.0.0.1", Registry(workdir / "registry").store))
        return started[-1]

    yield make
    for each in started:
        each.stop()


def until(replica: Replica, wanted: Callable[[Status], bool], seconds: float = 20.0) -> Status:
    end = time.monotonic() + seconds
    while not wanted(replica.status):
        assert time.monotonic() < end, replica.status
        time.sleep(0.02)
    return replica.status


def ready(replica: Replica) -> Status:
    return until(replica, lambda status: status.state == "ready")


def failure(replica: Replica) -> str:
    return until(replica, lambda status: status.state == "failed").why


def gone(*pids: int) -> bool:
    end = time.monotonic() + 15
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        time.sleep(0.05)
    return False


def pids_in(file: Path) -> list[int]:
    return [int(word) for word in file.read_text().split()]


def test_a_server_is_started_and_answers_at_its_address(start: Start) -> None:
    status = ready(start())
    assert status.address is not None
    assert status.address.model == "test-model"
    with urllib.request.urlopen(f"{status.address.url}/models") as answer:
        assert answer.status == 200


def test_stop_ends_the_server_and_a_child_that_left_its_session(start: Start, workdir: Path) -> None:
    replica = start("--pids", "pids")
    ready(replica)
    replica.stop()
    assert gone(*pids_in(workdir / "pids"))


def test_threads_that_outlive_the_first_one_are_ended_too(start: Start, workdir: Path) -> None:
    """The system shows such a server as a zombie, although it still has its memory and its GPUs."""
    code = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); "
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    process = GuardedProcess([sys.executable, "-c", code], os.environ, workdir / "1.log")
    guard = psutil.Process(process.pid)
    end = time.monotonic() + 10
    while not (below := guard.children()) or below[0].status() != "zombie":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert process.ended == ""
    process.stop()
    assert not below[0].is_running()
    assert process.ended == f"signal {signal.SIGTERM} ended it"
    assert (workdir / "1.log").read_text() == ""


def test_a_server_that_does_not_end_when_asked_is_killed(start: Start, workdir: Path) -> None:
    replica = start("--pids", "pids", "--stubborn")
    ready(replica)
    began = time.monotonic()
    replica.stop()
    assert gone(*pids_in(workdir / "pids"))
    assert time.monotonic() - began > 9, "it had the time to end"


def test_nothing_is_left_after_kill_9_of_the_process_that_started_it(workdir: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from engine.llm.types.serve_spec import ServeSpec
from engine.serving.launch import Launch, Served
from engine.serving.replica import Replica
from registry import Registry
spec = ServeSpec(command=({sys.executable!r}, {SERVER!r}, "--port", "{{port}}", "--pids", "pids"))
models = (Served(model="m", name="test-model", weights=None),)
launch = Launch(models=models, serve=spec, number=1, log=Path("log"))
replica = Replica(launch, "127.0.0.1", Registry("registry").store)
while replica.status.state != "ready":
    time.sleep(0.02)
print("ready", flush=True)
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"ready\n"
    owner.kill()
    owner.wait()
    assert gone(*pids_in(workdir / "pids"))


def test_kill_9_of_the_guard_ends_the_server(start: Start, workdir: Path) -> None:
    replica = start("--pids", "pids")
    ready(replica)
    [server, child] = pids_in(workdir / "pids")
    psutil.Process(server).parent().kill()
    assert gone(server)
    # Only the guard, which is gone, could end the process that has left the server's session.
    psutil.Process(child).kill()


def test_a_server_that_dies_is_started_again_at_the_same_port(start: Start, workdir: Path) -> None:
    replica = start("--pids", "pids")
    first = ready(replica)
    os.kill(pids_in(workdir / "pids")[0], 9)
    again = until(replica, lambda status: status.deaths == 1 and status.state == "ready")
    assert again.address == first.address
    assert "signal 9 ended it" in again.why
    assert gone(*pids_in(workdir / "pids")[:2]), "the first server's child is gone, too"


def test_a_server_that_dies_again_and_again_is_given_up(start: Start, workdir: Path) -> None:
    code = "import sys, threading, os, runpy; threading.Timer(1.0, lambda: os._exit(7)).start(); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    replica = start(command=(sys.executable, "-c", code, SERVER, "--port", "{port}"))
    why = until(replica, lambda status: status.state == "failed", 60).why
    assert "it died 5 times, each time soon after it was ready: it ended with status 7; its log ends with:\n" in why
    assert "loading test-model" in why


def call(address: str, seconds: float = 5.0) -> None:
    body = b'{"model": "test-model", "messages": [{"role": "user", "content": "q"}]}'
    with urllib.request.urlopen(urllib.request.Request(f"{address}/chat/completions", body), timeout=seconds) as answer:
        answer.read()


def test_a_server_that_hangs_is_started_again(start: Start, workdir: Path) -> None:
    replica = start("--pids", "pids", "--hang-once", str(workdir / "hung"), hang_timeout=0.4, health="/health")
    address = ready(replica).address
    assert address is not None
    with pytest.raises(TimeoutError):
        call(address.url, 0.2)
    again = until(replica, lambda status: status.deaths == 1 and status.state == "ready", 40)
    assert "it hung: for " in again.why
    assert "GET /health was not answered with 200 (timed out)" in again.why
    assert gone(*pids_in(workdir / "pids")[:2])
    assert again.address is not None
    call(again.address.url)


def test_a_server_that_hangs_again_and_again_is_given_up(start: Start, workdir: Path) -> None:
    """However long it takes to notice that it hangs: only the time during which it worked counts."""
    replica = start("--hang-after", "0.5", hang_timeout=0.4)
    why = until(replica, lambda status: status.state == "failed", 90).why
    assert "it died 5 times, each time soon after it was ready: it hung: for " in why


def test_a_server_that_hangs_is_stopped_at_once(start: Start, workdir: Path) -> None:
    replica = start("--pids", "pids", "--hang-once", str(workdir / "hung"))
    address = ready(replica).address
    assert address is not None
    with pytest.raises(TimeoutError):
        call(address.url, 0.2)
    replica.stop()
    assert gone(*pids_in(workdir / "pids"))


def test_a_server_that_ends_at_once_fails_with_its_last_words(start: Start, workdir: Path) -> None:
    why = failure(start("--broken"))
    assert why.startswith(f"it did not start: it ended with status 3. Its log ({workdir}/runs/1.log) ends with:\n")
    assert why.endswith("loading test-model\nRuntimeError: no kernel image is available")


def test_a_server_that_is_never_ready_fails_in_time(start: Start) -> None:
    why = failure(start("--never-ready", start_timeout=1.0))
    assert "it was not ready within 1 s (serve.start_timeout): GET /v1/models (serve.health): status 503" in why
    assert why.endswith("loading test-model")


def test_a_port_in_use_is_reported(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"serve.port: another process listens on port {port}" in failure(start(port=port))


def test_another_server_at_its_port_is_not_taken_for_it(start: Start) -> None:
    other = ready(start())
    assert other.address is not None
    port = other.address.url.split(":")[2].split("/")[0]
    why = failure(start(command=(sys.executable, SERVER, "--port", port), port=free_port("127.0.0.1")))
    assert "Address already in use" in why


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        ({"command": ("no-such-program", "{port}")}, "serve.command: there is no program 'no-such-program' in PATH on"),
        ({"command": ("/opt/none/serve", "{port}")}, "serve.command: there is no program '/opt/none/serve' on"),
        ({"command": ("{python}", "{port}"), "python": "/opt/none"}, "serve.python: there is no file /opt/none on"),
    ],
)
def test_missing_programs_and_files_are_reported(start: Start, serve: dict[str, Any], said: str) -> None:
    assert said in failure(start(**serve))


def test_a_model_that_the_server_does_not_know(start: Start) -> None:
    why = failure(start("--model", "llama,qwen"))
    assert "it does not know the model 'test-model'; it has 'llama', 'qwen'. Correct `model`, or the server's command" in why


def test_the_only_model_of_a_server_is_the_model_whatever_its_name(start: Start) -> None:
    status = ready(start("--model", "/weights/qwen"))
    assert status.address is not None
    assert status.address.model == "/weights/qwen"
