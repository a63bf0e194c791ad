"""Served models on Ray: they start, share the load, survive their death, and are gone when the driver is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from registry import Registry
from tests.engine.model_servers.adapted import made, noted, prepare, servers_of
from tests.engine.model_servers.served import calls, pipeline, served
from tests.engine.run_pipelines import outcomes, run_text, texts, words
from tests.in_process import InProcess


def pids() -> list[int]:
    return [int(word) for word in Path("pids").read_text().split()] if Path("pids").exists() else []


def are_gone(found: list[int], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in found):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.usefixtures("ray_session")
def test_two_replicas_one_of_which_dies(registry: Registry) -> None:
    words(*map(str, range(40)))
    options = ["--pids", "pids", "--together", "2", "--die-once", "died", "--seconds", "0.2"]
    model = served(*options, replicas=2, limits={"concurrency": 4})
    assert outcomes(run_text(pipeline(teacher=model), registry)) == {"asked": "ran"}
    assert Path("died").exists()
    assert len(calls()) == len({prompt for _, prompt in calls()}) == 40
    assert len({pid for pid, _ in calls()}) >= 2
    assert are_gone(pids())


@pytest.mark.usefixtures("ray_session")
def test_not_enough_gpus_is_found_before_anything_starts(registry: Registry) -> None:
    words("one")
    document = json.loads(pipeline("asked:small", "judged:large", small=served("--pids", "pids"), large=served(num_gpus=64)))
    document["steps"]["judged"]["in"] = "asked"
    result = run_text(json.dumps(document), registry)
    assert result.state == "failed"
    assert "step 'judged' cannot run here: the servers of its models (model 'large': 1 x 1 CPU and 64 GPUs)" in str(
        result.error
    )
    assert "Reduce serve.replicas, serve.num_gpus or serve.num_cpus, or run on more nodes" in str(result.error)
    assert not pids()


@pytest.mark.usefixtures("ray_session")
def test_servers_of_two_models_that_do_not_fit_together_take_turns(registry: Registry) -> None:
    words("one", "two")
    cpus = psutil.cpu_count() or 1
    first = served("--pids", "pids", num_cpus=cpus)
    second = served("--pids", "pids", "--says", "Then: ", num_cpus=cpus)
    result = run_text(pipeline("one:first", "two:second", first=first, second=second), registry)
    assert outcomes(result) == {"one": "ran", "two": "ran"}
    assert len(calls()) == 4


@pytest.mark.usefixtures("ray_session")
def test_an_adapter_that_is_made_later_is_loaded_by_both_replicas(registry: Registry) -> None:
    prepare()
    result = run_text(json.dumps(made("a", "b", replicas=2)), registry)
    assert result.state == "succeeded", result.error
    started = {process for process, *_ in noted("starts")}
    assert len(noted("starts")) == 2
    assert servers_of("b") <= started
    assert texts(registry, "demo/ask_b@1")[:1] == ["I am b: Say I am a: Say 0"]
    assert are_gone([int(process) for process in started])


def test_nothing_is_left_after_kill_9_of_the_driver_and_the_next_run_repeats_no_call(registry: Registry) -> None:
    words(*map(str, range(60)))
    Path("p.yaml").write_text(pipeline(teacher=served("--pids", "pids", "--seconds", "0.3", limits={"concurrency": 4})))
    driver = subprocess.Popen([sys.executable, "-m", "engine.cli", "run", "p.yaml"], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 90
    while len(calls()) < 8:
        assert time.monotonic() < end
        assert driver.poll() is None
        time.sleep(0.05)
    os.kill(driver.pid, 9)  # only the driver: what it has started must end by itself
    driver.wait()
    assert are_gone(pids()), "servers, and their children, end with the driver"
    assert len(calls()) < 60
    # The next run shares only the registry with the killed one.
    result = run_text(Path("p.yaml").read_text(), registry, cluster=InProcess(registry=registry))
    assert result.state == "succeeded", result.error
    # Only answers that were in flight when the driver was killed may have been given twice.
    assert len({prompt for _, prompt in calls()}) == 60
    assert len(calls()) <= 60 + 4
    assert are_gone(pids())


# `make test` kills the driver, which is harder.
@pytest.mark.soak
def test_ctrl_c_stops_the_servers(workdir: Path) -> None:
    words(*map(str, range(60)))
    Path("p.yaml").write_text(pipeline(teacher=served("--pids", "pids", "--seconds", "0.2", limits={"concurrency": 4})))
    driver = subprocess.Popen([sys.executable, "-m", "engine.cli", "run", "p.yaml"], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 90
    while len(calls()) < 4:
        assert time.monotonic() < end
        time.sleep(0.05)
    driver.send_signal(2)
    assert driver.wait(60) == 130
    assert are_gone(pids(), 1.0)
    answered = len(calls())
    assert answered < 60
    assert subprocess.run([sys.executable, "-m", "engine.cli", "run", "p.yaml"], stdout=subprocess.DEVNULL, check=True)
    assert len(calls()) == len({prompt for _, prompt in calls()}) == 60


def engine(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "engine.cli", *words], check=False, capture_output=True, text=True)


def test_probe_starts_a_server_and_stops_it(workdir: Path) -> None:
    words("one")
    Path("p.yaml").write_text(pipeline(teacher=served("--pids", "pids"), unused=served("--broken")))
    done = engine("probe", "p.yaml", "--json")
    [row] = json.loads(done.stdout)
    assert (row["model"], row["n"], row["images"]) == ("teacher", True, False)
    assert "model 'unused' is not probed: no step uses it" in done.stderr
    assert are_gone(pids(), 0.1)
    Path("p.yaml").write_text(pipeline(teacher=served("--broken")))
    done = engine("probe", "p.yaml")
    assert done.returncode != 0
    assert "RuntimeError: no kernel image is available" in done.stderr
