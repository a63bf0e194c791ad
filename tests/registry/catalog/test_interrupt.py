"""Ctrl-C while DuckDB works. DuckDB raises RuntimeError then."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from threading import Timer

import duckdb
import pytest

import registry.catalog.derived_tables as derived_tables
from registry import Registry
from tests.registry.catalog.test_catalog import everything

ENDLESS = "select count(*) from range(1000000000000)"


@pytest.fixture
def ctrl_c() -> Iterator[Timer]:
    """Presses Ctrl-C soon after it is started."""
    # Processes of pytest-xdist ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
    yield timer
    timer.cancel()
    signal.signal(signal.SIGINT, before)


def test_a_look_up_that_is_interrupted_is_a_keyboard_interrupt(registry: Registry, ctrl_c: Timer) -> None:
    registry.catalog.begin_run("p", {})
    ctrl_c.start()
    with pytest.raises(KeyboardInterrupt):
        registry.catalog.look_up(ENDLESS)
    assert registry.catalog.look_up("select count(*) from runs") == [(1,)]


def test_a_change_that_is_interrupted_is_a_keyboard_interrupt_and_changes_nothing(
    registry: Registry, ctrl_c: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = registry.catalog.begin_run("p", {})
    before = everything(registry)

    def add(con: duckdb.DuckDBPyConnection, _: object) -> None:
        con.execute(ENDLESS)

    with monkeypatch.context() as patched:
        patched.setattr(derived_tables, "add_events", add)
        ctrl_c.start()
        with pytest.raises(KeyboardInterrupt):
            registry.catalog.end_run(run_id, "succeeded")
    assert everything(registry) == before
    registry.catalog.end_run(run_id, "interrupted")
    assert registry.catalog.look_up("select state from runs") == [("interrupted",)]
