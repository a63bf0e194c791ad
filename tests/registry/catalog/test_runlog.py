"""A run's journal is valid OpenLineage and a file of record: all damage to it is found."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from registry import CorruptError, Registry, StepRun
from registry.catalog.manifest import Event
from tests.registry.catalog.test_catalog import commit, draft, everything, three_generations
from tests.registry.children import exit_code


def journal_of_a_run(registry: Registry) -> tuple[str, Path, list[Event]]:
    """A run of three events."""
    run = registry.catalog.begin_run("p", {"file": "p.yaml"})
    registry.catalog.commit([draft(registry, "p/a", "xy", "k")], run, StepRun(step="a", op="test", outcome="ran"))
    registry.catalog.end_run(run, "succeeded", refs={"p/a": 1})
    return run, registry.catalog.runs.path(run), registry.catalog.runs.read(run)


def test_a_line_is_an_openlineage_event_that_contains_ours(registry: Registry) -> None:
    _, path, events = journal_of_a_run(registry)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["eventType"] for line in lines] == ["START", "COMPLETE", "COMPLETE"]
    assert [line["job"]["name"] for line in lines] == ["p", "p.a", "p"]
    assert [output["name"] for output in lines[1]["outputs"]] == ["p/a"]
    assert [line["run"]["facets"]["engine"]["event"]["event"] for line in lines] == [event.event for event in events]
    assert [event.event for event in events] == ["started", "step", "ended"]


def test_a_flipped_byte_is_an_error_that_names_the_line_or_harmless(registry: Registry) -> None:
    run, path, events = journal_of_a_run(registry)
    good = path.read_bytes()
    newlines = [place for place, byte in enumerate(good) if byte == ord("\n")]
    errors = []
    for place in sorted({*range(0, len(good), 37), *newlines}):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        try:
            assert registry.catalog.runs.read(run) == events, f"byte {place}"
        except CorruptError as error:
            errors.append(str(error))
    assert errors
    assert all(re.search(rf"{path}, line [123], is damaged", error) for error in errors)


@pytest.mark.parametrize("rest", [b'{"eventType": "COMP', b"\x00" * 12, b"{}", b"[1]"])
def test_a_line_that_was_being_written_at_a_crash_is_removed(registry: Registry, rest: bytes) -> None:
    three_generations(registry)
    run = registry.catalog.begin_run("p", {})
    with registry.catalog.runs.path(run).open("ab") as journal:
        journal.write(rest)
    registry.catalog.end_run(run, "succeeded")
    assert [event.event for event in registry.catalog.runs.read(run)] == ["started", "ended"]
    assert registry.catalog.differences() == []


def test_a_line_whose_newline_is_damaged_still_counts(registry: Registry) -> None:
    run = registry.catalog.begin_run("p", {})
    path = registry.catalog.runs.path(run)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    registry.catalog.end_run(run, "succeeded")
    assert [event.event for event in registry.catalog.runs.read(run)] == ["started", "ended"]
    assert registry.catalog.differences() == []


def test_a_damaged_journal_stops_a_rebuild_and_the_catalog_stays(registry: Registry) -> None:
    _, path, _ = journal_of_a_run(registry)
    before = everything(registry)
    path.write_bytes(path.read_bytes().replace(b"succeeded", b"succeedEd"))
    with pytest.raises(CorruptError, match=f"{path.name}, line 3, is damaged"):
        registry.catalog.rebuild()
    assert everything(registry) == before


def _end_and_die(root: Path) -> None:
    registry = Registry(root)
    run = registry.catalog.begin_run("p", {})
    os.environ["ENGINE_FAULT"] = "journal.appended"
    registry.catalog.end_run(run, "succeeded", refs={"p/a": 1})


def _begin_and_die(root: Path) -> None:
    Registry(root).catalog.begin_run("p", {})
    os._exit(9)


def test_a_run_that_died_after_its_last_event_keeps_its_state(registry: Registry) -> None:
    commit(registry, draft(registry, "p/a", "x", "1"))
    commit(registry, draft(registry, "p/a", "y", "2"))
    assert exit_code(_end_and_die, registry.root) == -9
    registry.catalog.mark_dead_runs()
    with registry.session() as session:
        assert session.ask("select distinct state from runs").rows == [("succeeded",)]
        assert session.resolve("p/a") == ("p/a", 1)
    assert registry.catalog.differences() == []


def test_a_run_whose_process_died_is_interrupted(registry: Registry) -> None:
    assert exit_code(_begin_and_die, registry.root) == 9
    alive = registry.catalog.begin_run("p", {})
    registry.catalog.mark_dead_runs()
    with registry.session() as session:
        assert session.ask("select state from runs order by started_at").rows == [("interrupted",), ("running",)]
    registry.catalog.end_run(alive, "succeeded")


def test_a_dead_run_without_a_journal_is_not_listed(registry: Registry) -> None:
    assert exit_code(_begin_and_die, registry.root) == 9
    [journal] = registry.catalog.runs.run_ids()
    registry.catalog.runs.path(journal).unlink()
    registry.catalog.mark_dead_runs()
    assert everything(registry)["runs"] == []
