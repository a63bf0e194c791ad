"""The command prints the address, serves until it is interrupted, and explains why it cannot serve."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from engine.errors import EngineError
from engine.page.serving import listening
from tests.conftest import Cli


@pytest.mark.proof  # a process of its own
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_at_the_address_that_is_printed_until_interrupted(shipped: Path, stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "engine.cli", "--registry", str(shipped), "ui", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        address = re.fullmatch(r"The page is at (http://127\.0\.0\.1:\d+/\?token=[\w-]{32})\n", line)
        assert address, line + process.stderr.read()
        opener = build_opener(HTTPCookieProcessor())
        with opener.open(address[1]) as answer:
            assert b"preferences/pairs" in answer.read()
        process.send_signal(stop)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_taken_port_is_reported_with_advice() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"--port {port}: another program.*--port 0"):
            listening("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", ""])
def test_an_address_that_this_machine_does_not_have_is_reported(host: str) -> None:
    with pytest.raises(EngineError):
        listening(host, 0)


@pytest.mark.proof  # processes of their own
def test_a_missing_registry_and_missing_packages_are_reported(engine: Cli, workdir: Path) -> None:
    missing = engine("ui", "--port", "0")
    assert missing.returncode == 2
    assert "there is no registry" in missing.stderr
    hidden = workdir / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['uvicorn'] = None\nsys.modules['starlette'] = None\n")
    lacking = engine("ui", env={"PYTHONPATH": os.pathsep.join([str(hidden), os.environ["PYTHONPATH"]])})
    assert lacking.returncode == 2
    assert "pip install 'posttrain-engine[ui]'" in lacking.stderr
