"""Memory and CPU of the processes that `engine run` starts, sampled while it runs, for benchmarks.

The driver, the workers and Ray's own processes (raylet, gcs_server, agents, idle workers) are counted separately. Pages that several
processes share count once (PSS), so the sum is what the machine needs. The page cache of files is not included.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

import psutil

SAMPLE_SECONDS = 0.2
_OF_RAY = ("ray::IDLE", "ray::SPILL", "ray::RESTORE", "ray::DELETE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""How workers without work, and agents, call themselves."""


class Shares(NamedTuple):
    """A quantity by the processes that use it: the driver, the workers, Ray's own."""

    driver: float
    workers: float
    ray: float

    @property
    def all(self) -> float:
        """Everything that `engine run` started, and itself."""
        return sum(self)


class Sample(NamedTuple):
    """At a moment: resident bytes, and seconds of CPU since the beginning (also of processes that have ended)."""

    at: float
    memory: Shares
    cpu: Shares


def watch(run: subprocess.Popen[bytes], every: float = SAMPLE_SECONDS) -> Iterator[Sample]:
    """Samples until a run ends."""
    driver = psutil.Process(run.pid)
    used: dict[psutil.Process, tuple[str, float]] = {}
    while run.poll() is None:
        memory = dict.fromkeys(Shares._fields, 0)
        for process in (driver, *driver.children(recursive=True)):
            who = "driver" if process == driver else "workers" if _is_worker(process) else "ray"
            try:
                memory[who] += process.memory_full_info().pss
                # Ray Data's workers call themselves idle between tasks, and their CPU stays theirs.
                of = "workers" if used.get(process, ("", 0.0))[0] == "workers" else who
                used[process] = of, sum(process.cpu_times()[:2])
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it is gone: what was seen of it last counts
        cpu = [sum(seconds for of, seconds in used.values() if of == who) for who in Shares._fields]
        yield Sample(time.time(), Shares(**memory), Shares(*cpu))
        time.sleep(every)


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is a Ray worker that runs something; they call themselves `ray::` and what they run."""
    try:
        name = " ".join(process.cmdline())
        return name.startswith("ray::") and not name.startswith(_OF_RAY)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
