"""Queries that try to evade the restrictions of `engine sql` or its time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from registry import QueryError, Registry, Session
from registry.catalog.database import _explained as explained
from registry.errors import DamagedError, StaleError
from tests.registry.catalog.test_catalog import three_generations

FOREVER = "(select count(*) from range(100000000000) a, range(1000) b)"


@pytest.fixture
def session(registry: Registry):
    three_generations(registry)
    with registry.session("50%") as session:
        yield session


@pytest.mark.parametrize(
    "query",
    [
        "explain (analyze /* ) select 1 -- */ ) select * from read_csv('/etc/passwd')",
        "explain (analyze /* ) select 1 -- */ ) insert into internal.versions (name) values ('x')",
        "explain (analyze /* ) select 1 -- */ ) select * from glob('/*')",
        "explain (format /* ) select 1 -- */ json) select * from read_text('/etc/passwd')",
        "explain /* explain select 1 -- */ analyze select * from read_text('/etc/passwd')",
        "explain (\"analyze\") select * from read_text('/etc/passwd')",
        "explain analyze (select 1); select 2",
        "explain $$ select 1 $$",
        "select '\ud800'",
    ],
)
def test_the_checked_text_is_what_runs(session: Session, query: str) -> None:
    with pytest.raises(QueryError):
        session.ask(query)


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("explain select 1", "physical_plan"),
        ("EXPLAIN(ANALYZE, FORMAT json)select 'é', 1", "analyzed_plan"),
        ('/* x */ explain -- y\n analyze from "p/a@1";', "analyzed_plan"),
        ("explain (select 1) union all (select 2)", "physical_plan"),
        (f"explain {'/**/' * 5000} select 1", "physical_plan"),
    ],
)
def test_explain_works(session: Session, query: str, key: str) -> None:
    assert session.ask(query, timeout=60).rows[0][0] == key


def test_memory_can_be_a_percentage_of_the_machine(registry: Registry, session: Session) -> None:
    with registry.session("25%") as smaller:
        assert smaller.memory == pytest.approx(session.memory / 2, rel=0.05)


def test_a_catalog_of_a_newer_duckdb_is_rebuilt_and_not_called_damaged(tmp_path: Path) -> None:
    said = "IO Error: Trying to read a database file with version number 99, but we can only read versions between 64 and 68."
    with pytest.raises(StaleError) as refused, explained(tmp_path / "registry.duckdb"):
        raise duckdb.IOException(said)
    assert not isinstance(refused.value, DamagedError)


@pytest.mark.parametrize("command", [["sql", f"select {FOREVER}"], ["impact", "p/a@1", "--where", f"{FOREVER} > 1"]])
def test_ctrl_c_ends_a_query_at_once(registry: Registry, command: list[str], tmp_path: Path) -> None:
    three_generations(registry)
    # It reports through a pipe when the query is about to run, so that the interrupt cannot come too early.
    begun, ready = os.pipe()
    program = (
        "import os, registry.query.session as q, engine.cli\n"
        "scan = q.Session._attach_named\n"
        f"def attached(*a):\n    scan(*a)\n    os.write({ready}, b'.')\n"
        "q.Session._attach_named = attached\n"
        "engine.cli.main()"
    )
    arguments = [sys.executable, "-c", program, "--registry", str(registry.root), *command]
    process = subprocess.Popen(arguments, pass_fds=[ready], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    os.close(ready)
    assert os.read(begun, 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    os.close(begun)
    assert (process.returncode, said) == (130, "interrupted; nothing was changed\n")


def test_impact_has_the_limits_of_sql(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.hostile.test_registries import ran

    monkeypatch.setattr("registry.query.limits.limit_memory", lambda size: None)
    three_generations(registry)
    answer = ran(registry.root, "impact", "p/a@1", "--where", f"{FOREVER} > 1", "--timeout", "0.2")
    assert answer.code == 2
    assert "the query was stopped after 0.2 s" in answer.err
