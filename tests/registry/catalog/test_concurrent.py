"""Many processes commit and read at the same time: none fails, none sees half a commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry import Registry, StepRun
from tests.registry.catalog.test_catalog import commit, draft
from tests.registry.children import CONTEXT, started

pytestmark = pytest.mark.proof  # many processes


def _write(root: Path, who: int, runs: int, steps: int) -> None:
    registry = Registry(root)
    for number in range(runs):
        run = registry.catalog.begin_run("p", {})
        refs = {}
        for step in range(steps):
            pair = [draft(registry, f"p/w{who}.{half}", [f"{number}.{step}"], f"{number}.{step}") for half in "ab"]
            record = StepRun(step=f"s{step}", op="test", outcome="ran")
            refs |= {made.name: made.version for made in registry.catalog.commit(pair, run, record)}
        registry.catalog.end_run(run, "succeeded", refs=refs)


def _read(root: Path, done: Any) -> None:
    registry = Registry(root)
    while not done.is_set():
        with registry.session() as session:
            torn = session.ask("""
                select replace(name, '.b', '.a') as pair, version from versions
                where name like 'p/w%' group by all having count(*) <> 2""").rows
            [(versions, metrics)] = session.ask("select (select count(*) from versions), (select count(*) from metrics)").rows
            moved = session.ask("""
                select replace(name, '.b', '.a') as pair from datasets
                where name like 'p/w%' group by all having min(latest_version) <> max(latest_version)""").rows
        assert (torn, versions, moved) == ([], metrics, [])


@pytest.mark.parametrize(
    ("writers", "readers", "runs", "steps"),
    [(3, 1, 2, 2), pytest.param(8, 3, 25, 5, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])],
)
def test_processes_commit_while_others_read(registry: Registry, writers: int, readers: int, runs: int, steps: int) -> None:
    done = CONTEXT.Event()
    commit(registry, draft(registry, "p/first", "x", "first"))
    reading = [started(_read, registry.root, done) for _ in range(readers)]
    writing = [started(_write, registry.root, who, runs, steps) for who in range(writers)]
    for writer in writing:
        writer.join()
    done.set()
    for reader in reading:
        reader.join()
    assert [process.exitcode for process in (*writing, *reading)] == [0] * (writers + readers)
    count = runs * steps
    with registry.session() as session:
        rows = session.ask(
            "select name, max(version), count(*) from versions where name <> 'p/first' group by 1 order by 1"
        ).rows
        assert rows == [(f"p/w{who}.{half}", count, count) for who in range(writers) for half in "ab"]
        assert session.ask("select state, count(*) from runs group by 1").rows == [("succeeded", writers * runs + 1)]
    assert registry.catalog.differences() == []
