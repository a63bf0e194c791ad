"""Runs on one machine divide the limits of an endpoint, whatever happens to one of them or to the folder."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import subprocess
import sys
from bisect import bisect_left
from pathlib import Path
from typing import Any

import pytest

from engine.llm.limits import machine_share as module
from engine.llm.limits.accounting import CallOutcome
from engine.llm.limits.adaptive_window import Window
from engine.llm.limits.estimates import Estimate
from engine.llm.limits.governor import Governor
from engine.llm.limits.machine_share import RECOUNT_SECONDS, MachineShare, machine_share, user_folder, why_not_shared
from engine.llm.types.model_spec import ModelSpec
from tests.chat_server import ChatServer
from tests.clock import Clock
from tests.engine.conftest import Make

KEY, OTHER_KEY = "0" * 64, "1" * 64
ANSWERED = CallOutcome("answered", tokens=100)

HOLD = """
import sys
from pathlib import Path
from engine.llm.limits.machine_share import MachineShare
share = MachineShare(sys.argv[1], folder=lambda: Path(sys.argv[2]))
print(share.holders(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "limits"


def share(clock: Clock, folder: Path, key: str = KEY) -> MachineShare:
    return MachineShare(key, clock, lambda: folder)


def governor(clock: Clock, folder: Path, **limits: Any) -> Governor:
    """The limits of a run's model."""
    spec = ModelSpec.model_validate({"provider": "openai", "model": "m", "limits": limits})
    return Governor(spec, clock=clock, share=share(clock, folder))


def files(folder: Path) -> int:
    return len(os.listdir(folder)) if folder.exists() else 0


def leave(gate: Governor) -> None:
    """Do what a governor's timer does when it has had no requests for a while."""
    assert gate._share is not None
    gate._leave_if_idle(gate._share)
    gate._leave_if_idle(gate._share)


# -- holders ---------------------------------------------------------------------------------------------------------


def test_holders_count_each_other_once_a_second(clock: Clock, folder: Path) -> None:
    first, second, other = share(clock, folder), share(clock, folder), share(clock, folder, OTHER_KEY)
    assert (first.holders(), other.holders(), second.holders()) == (1, 1, 2)
    clock.now += RECOUNT_SECONDS / 2
    assert first.holders() == 1
    clock.now += RECOUNT_SECONDS / 2
    assert (first.holders(), second.holders(), other.holders()) == (2, 2, 1)
    second.leave()
    clock.now += RECOUNT_SECONDS
    assert first.holders() == 1
    assert second.holders() == 2


def test_the_folder_is_the_users_and_files_say_nothing(clock: Clock, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o755)
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    spec = ModelSpec.model_validate(
        {"provider": "openai", "model": "gpt", "base_url": "http://host/v1", "api_key_env": "SOME_KEY"}
    )
    held = machine_share(spec)
    assert held is not None
    held._find_folder = lambda: folder
    held.holders()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    [file] = folder.iterdir()
    assert (stat.S_IMODE(file.stat().st_mode), file.read_bytes()) == (0o600, b"")
    assert module._NAME.fullmatch(file.name)
    held.leave()
    assert not list(folder.iterdir())


def test_endpoint_model_and_name_of_the_key_make_a_share() -> None:
    base = {"provider": "openai", "model": "m", "base_url": "http://host/v1", "api_key_env": "A"}
    changes = ({"base_url": "http://host/v1/"}, {"temperature": 0}, {"limits": {"concurrency": 1}})
    same = [machine_share(ModelSpec.model_validate({**base, **change})) for change in changes]
    changes = ({"base_url": "http://host/v2"}, {"model": "n"}, {"api_key_env": "B"}, {"api_key_env": None})
    others = [machine_share(ModelSpec.model_validate({**base, **change})) for change in changes]
    assert len({each._key for each in same if each}) == 1
    assert len({each._key for each in (*same, *others) if each}) == 5


@pytest.mark.parametrize("spec", [{"provider": "transformers"}, {"provider": "openai", "mode": "batch"}])
def test_local_models_and_batches_are_not_shared(spec: dict[str, Any]) -> None:
    assert machine_share(ModelSpec.model_validate({"model": "m", **spec})) is None


def test_a_killed_process_holds_nothing(clock: Clock, folder: Path) -> None:
    command = [sys.executable, "-c", HOLD, KEY, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        here = share(clock, folder)
        assert here.holders() == 2
        process.kill()
    clock.now += RECOUNT_SECONDS
    assert here.holders() == 1
    assert len(list(folder.iterdir())) == 1, "its file is removed"


def test_a_forked_child_does_not_keep_the_share_of_its_parent(clock: Clock, folder: Path) -> None:
    parent, other = share(clock, folder), share(clock, folder)
    parent.holders()
    assert parent._file is not None
    (ready, say_ready), (wait, go) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(say_ready, b"x")
        os.read(wait, 1)
        os._exit(0)
    os.read(ready, 1)
    os.close(parent._file._descriptor)  # as if the parent had been killed
    module._inheritable.discard(parent._file._descriptor)
    parent._file.close.detach()
    assert other.holders() == 1
    os.write(go, b"x")
    os.waitpid(child, 0)
    for descriptor in (ready, say_ready, wait, go):
        os.close(descriptor)


def test_a_new_holder_removes_the_files_of_dead_ones(clock: Clock, folder: Path) -> None:
    folder.mkdir()
    dead = [folder / f"{key}-{'a' * 16}" for key in (KEY, OTHER_KEY)]
    for file in dead:
        file.touch()
    assert share(clock, folder).holders() == 1
    assert not any(file.exists() for file in dead)


def test_foreign_files_do_not_count_and_stay(clock: Clock, folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").touch()
    (folder / f"{KEY}-{'a' * 16}").mkdir()
    (folder / f"{KEY}-{'b' * 16}").symlink_to(tmp_path)
    (folder / f"{KEY}-{'c' * 16}").symlink_to(tmp_path / "missing")
    os.mkfifo(folder / f"{KEY}-{'d' * 16}")
    (folder / KEY).touch()
    here = share(clock, folder)
    assert (here.holders(), here.trouble) == (1, "")
    here.leave()
    assert len(list(folder.iterdir())) == 6


def test_a_folder_that_vanishes_is_made_again(clock: Clock, folder: Path) -> None:
    first, second = share(clock, folder), share(clock, folder)
    first.holders()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    second.holders()
    clock.now += RECOUNT_SECONDS
    assert (first.holders(), second.holders()) == (2, 2)


def test_without_a_folder_each_run_has_the_whole_limits(clock: Clock, folder: Path) -> None:
    folder.touch()
    here = share(clock, folder)
    assert (here.holders(), here.trouble) == (1, f"{folder}: File exists")
    folder.unlink()
    clock.now += RECOUNT_SECONDS
    assert (here.holders(), here.trouble) == (1, "")
    other = share(clock, folder)
    assert other.holders() == 2


@pytest.mark.parametrize("fault", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_each_run_has_the_whole_limits(
    clock: Clock, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(fcntl, "flock", flock)
    here = share(clock, folder)
    assert (here.holders(), here.trouble) == (1, f"{folder}: files there cannot be locked ({os.strerror(fault)})")
    assert not list(folder.iterdir())


def test_a_full_disk_leaves_the_limits_to_the_run(clock: Clock, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = share(clock, folder)
    first.holders()

    def full(path: Any, *_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        second = share(clock, folder)
        assert second.holders() == 1
        assert second.trouble.endswith(": No space left on device")
    assert second.holders() == 1, "tried again a second later, not at every request"
    clock.now += RECOUNT_SECONDS
    assert second.holders() == 2


def test_the_runtime_folder_comes_before_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid)
    if os.path.isdir(f"/run/user/{os.getuid()}"):
        monkeypatch.setattr(os, "access", lambda path, _: not str(path).startswith("/run/user"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setenv("HOME", "/home/me")
    assert user_folder() == tmp_path / "posttrain-engine" / "limits"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert user_folder() == Path("/cache/posttrain-engine/limits")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_folder() == Path("/home/me/.cache/posttrain-engine/limits")
    monkeypatch.setenv("HOME", "nowhere")
    with pytest.raises(OSError, match="no home folder"):
        user_folder()


async def test_users_learn_once_that_limits_are_not_shared(
    model: Make, chat_server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "posttrain-engine").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    why_not_shared.cache_clear()
    try:
        teacher = model()
        assert teacher.notes == []
        await teacher.chat("Hello")
        place = tmp_path / "posttrain-engine" / "limits"
        assert teacher.notes == [f"limits are not divided among the runs on this machine: {place}: Not a directory"]
    finally:
        why_not_shared.cache_clear()


# -- requests in flight ----------------------------------------------------------------------------------------------


class Run:
    """A run that always has more requests to send."""

    def __init__(self, gate: Governor) -> None:
        self.gate = gate
        self._numbers = iter(range(10**6))
        self._asked = [self._ask() for _ in range(64)]
        self.sent = 0

    async def step(self) -> None:
        """Admit what may be sent now."""
        self.gate._admit_waiting()
        for _ in range(3):
            await asyncio.sleep(0)

    async def answer(self, count: int) -> None:
        """Answer some requests, and send what may be sent instead."""
        for _ in range(count):
            task = next(task for task in self._asked if task.done())
            self._asked.remove(task)
            self._asked.append(self._ask())
            self.gate.release(task.result(), ANSWERED)
        await self.step()

    async def end(self) -> None:
        """Cancel what waits, answer what is in flight, and be idle."""
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        for task in self._asked:
            if not task.cancelled():
                self.gate.release(task.result(), ANSWERED)
        leave(self.gate)

    @property
    def in_flight(self) -> int:
        return len(self.gate._in_flight)

    def _ask(self) -> asyncio.Task[int]:
        return asyncio.create_task(self.gate.admit(Estimate(str(next(self._numbers)), tokens=100)))


async def test_two_runs_divide_the_requests_in_flight(clock: Clock, folder: Path) -> None:
    first = Run(governor(clock, folder, concurrency=8))
    await asyncio.sleep(0)
    await first.step()
    assert first.in_flight == 8
    second = Run(governor(clock, folder, concurrency=8))
    await asyncio.sleep(0)
    await second.step()
    assert second.in_flight == 4
    clock.now += RECOUNT_SECONDS
    await first.answer(5)
    assert first.in_flight == 4
    await second.end()
    clock.now += RECOUNT_SECONDS
    await first.answer(1)
    first.gate._on_timer()
    assert first.in_flight == 8
    await first.end()
    assert files(folder) == 0


async def test_each_of_many_runs_sends_a_request(clock: Clock, folder: Path) -> None:
    runs = []
    for _ in range(5):
        runs.append(Run(governor(clock, folder, concurrency=2)))
        await asyncio.sleep(0)
    clock.now += RECOUNT_SECONDS
    for run in runs:
        await run.answer(run.in_flight)
    assert [run.in_flight for run in runs] == [1] * 5
    for run in runs:
        await run.end()


async def test_a_run_that_waits_for_others_looks_again_by_itself(clock: Clock, folder: Path) -> None:
    other = share(clock, folder)
    other.holders()
    run = Run(governor(clock, folder, concurrency=4))
    await asyncio.sleep(0)
    assert run.in_flight == 2
    assert run.gate._timer is not None
    assert run.gate._timer.when() <= asyncio.get_running_loop().time() + RECOUNT_SECONDS
    other.leave()
    clock.now += RECOUNT_SECONDS
    run.gate._on_timer()
    run.gate._on_timer()
    assert run.in_flight == 4
    await run.end()


async def test_a_governor_is_a_holder_only_while_it_has_requests(clock: Clock, folder: Path) -> None:
    gate = governor(clock, folder, concurrency=4)
    assert files(folder) == 0
    ticket = await gate.admit(Estimate("a"))
    leave(gate)
    assert files(folder) == 1, "a request is in flight"
    gate.release(ticket, ANSWERED)
    assert gate._share is not None
    gate._leave_if_idle(gate._share)
    assert files(folder) == 1, "it was in use a moment ago"
    gate._leave_if_idle(gate._share)
    assert files(folder) == 0
    gate.release(await gate.admit(Estimate("b")), ANSWERED)
    assert files(folder) == 1
    leave(gate)


async def test_two_models_in_one_process_share_too(clock: Clock, folder: Path) -> None:
    first, second = governor(clock, folder, concurrency=4), governor(clock, folder, concurrency=4)
    tickets = [await first.admit(Estimate("a")), await second.admit(Estimate("a"))]
    assert (first.window.most, second.window.most) == (4, 2)
    for gate, ticket in zip((first, second), tickets, strict=True):
        gate.release(ticket, ANSWERED)
        leave(gate)


# -- the window ------------------------------------------------------------------------------------------------------


def test_what_a_window_has_learned_is_divided(clock: Clock) -> None:
    window = Window(64, clock, gently=False)
    window.throttled(window.epoch, 20, None)
    assert window.size() == 16
    window.divide(2)
    assert (window.most, window.size()) == (32, 8)
    for _ in range(100):
        window.answered()
    assert window.size() == 10, "half of the ceiling"
    window.divide(1)
    assert (window.most, window.size()) == (64, 10)
    answers = 0
    while window.size() < 20:
        window.answered()
        answers += 1
    assert answers < 100


def test_a_window_that_met_no_limit_opens_to_a_larger_share(clock: Clock) -> None:
    window = Window(64, clock, gently=False)
    for parts, size in ((3, 21), (100, 1), (2, 1)):
        window.divide(parts)
        assert window.size() == size
    sizes = []
    while window.starting:
        window.open_further()
        sizes.append(window.size())
    assert sizes == [9, 17, 25, 32]
    window.divide(1)
    while window.starting:
        window.open_further()
    assert window.size() == 64


def test_a_window_that_is_opening_opens_to_its_share(clock: Clock) -> None:
    window = Window(64, clock)
    window.divide(4)
    assert (window.size(), window.starting) == (8, True)
    window.open_further()
    assert (window.size(), window.starting) == (16, False)


# -- per minute ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limits", "per_minute"), [({"requests_per_minute": 600}, 600), ({"tokens_per_minute": 60_000}, 600)])
async def test_two_runs_divide_what_is_sent_in_a_minute(
    clock: Clock, folder: Path, limits: dict[str, float], per_minute: int
) -> None:
    sent: list[tuple[float, Run]] = []

    async def pass_time(until: float, *runs: Run) -> None:
        while clock.now < until:
            clock.now += 0.1
            for run in runs:
                await run.step()
                sent.extend([(clock.now, run)] * run.in_flight)
                await run.answer(run.in_flight)

    first = Run(governor(clock, folder, **limits))
    await pass_time(80, first)
    second = Run(governor(clock, folder, **limits))
    await pass_time(200, first, second)
    await second.end()
    await pass_time(300, first)
    await first.end()
    moments = [moment for moment, _ in sent]
    in_a_minute = [bisect_left(moments, start + 60) - bisect_left(moments, start) for start in moments]
    assert max(in_a_minute) <= per_minute * 1.02
    both = [run for moment, run in sent if 100 <= moment < 160]
    assert both.count(first) == pytest.approx(both.count(second), rel=0.05)
    for start in (10, 100, 220):
        assert bisect_left(moments, start + 60) - bisect_left(moments, start) >= 0.75 * per_minute
