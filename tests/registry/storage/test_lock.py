"""The lock names its holder, waiting has a limit, and the lock is never stolen."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import duckdb
import pytest
from filelock import FileLock

from registry import LockedError, Registry
from registry.storage import lock
from tests.registry.catalog.test_catalog import commit, draft, everything
from tests.registry.children import CONTEXT, started


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_LOCK_SECONDS", "0.1")


def _hold(root: Path, held: Connection) -> None:
    with Registry(root).catalog.exclusive():
        held.send(None)
        held.recv()


def _hold_without_a_name(root: Path, held: Connection) -> None:
    with FileLock(root / "registry.lock"):
        held.send(None)
        held.recv()


def _open_with_duckdb(root: Path, held: Connection) -> None:
    with duckdb.connect(str(root / "registry.duckdb")):
        held.send(None)
        held.recv()


@contextmanager
def holding(how: Callable[[Path, Connection], None], root: Path) -> Iterator[BaseProcess]:
    """A process that holds something until the block ends."""
    here, there = CONTEXT.Pipe()
    process = started(how, root, there)
    try:
        here.recv()
        yield process
        if process.is_alive():
            here.send(None)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    finally:
        process.kill()
        process.join()


def test_a_stopped_holder_is_named_and_keeps_the_lock(registry: Registry) -> None:
    commit(registry, draft(registry, "p/a", "x", "k"))
    before = everything(registry)
    with holding(_hold, registry.root) as holder:
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                with pytest.raises(LockedError) as refused:
                    registry.catalog.snapshot()
                named = (
                    rf"locked by process {holder.pid} on {socket.gethostname()} \(.+\) since \d{{4}}-.+; gave up after 0.1 s"
                )
                refused.match(named)
        finally:
            os.kill(holder.pid, signal.SIGCONT)
    assert everything(registry) == before


def test_a_waiting_process_warns_once(
    registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_WARN_SECONDS", 0.01)
    commit(registry, draft(registry, "p/a", "x", "k"))
    with holding(_hold, registry.root) as holder, pytest.raises(LockedError):
        registry.catalog.snapshot()
    [warning] = [record for record in caplog.records if record.name == "registry"]
    assert warning.levelno == logging.WARNING
    assert f"locked by process {holder.pid} on" in warning.getMessage()


def test_a_killed_holder_frees_the_lock_and_is_not_named_afterwards(registry: Registry) -> None:
    commit(registry, draft(registry, "p/a", "x", "k"))
    before = everything(registry)
    with holding(_hold, registry.root) as killed:
        killed.kill()
    assert everything(registry) == before
    with holding(_hold, registry.root) as killed:
        killed.kill()
    with holding(_hold_without_a_name, registry.root), pytest.raises(LockedError) as refused:
        registry.catalog.snapshot()
    refused.match("by a process that has not identified itself yet")


def test_threads_take_turns(registry: Registry) -> None:
    commit(registry, draft(registry, "p/a", "x", "k"))
    inside, most = 0, 0

    def take() -> None:
        nonlocal inside, most
        for _ in range(5):
            with registry.catalog.exclusive():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=take) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ENGINE_LOCK_SECONDS")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1


def test_a_file_that_a_duckdb_shell_has_open_is_locked_not_damaged(registry: Registry) -> None:
    commit(registry, draft(registry, "p/a", "x", "k"))
    before = everything(registry)
    with holding(_open_with_duckdb, registry.root) as shell:
        for use in (registry.catalog.snapshot, registry.catalog.mark_dead_runs, registry.catalog.rebuild):
            with pytest.raises(LockedError, match=rf"registry.duckdb is open in process {shell.pid} "):
                use()
    assert everything(registry) == before
    assert list(registry.root.glob("*.damaged-*")) == []
