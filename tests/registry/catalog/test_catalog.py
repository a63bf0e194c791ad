"""Commits are visible completely or not at all, survive dying processes, and can be rebuilt from the files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from registry import (
    CorruptError,
    DataObject,
    Draft,
    Manifest,
    Metric,
    ModelUsage,
    QueryError,
    Record,
    Registry,
    StepRun,
    VersionRef,
)
from registry.catalog.write_ahead import Intent
from registry.errors import InvalidRequestError, UnfitError
from registry.records.schema import fields_of
from tests.registry.edges import side_of_edges

VIEWS = (
    "datasets",
    "versions",
    "runs",
    "step_runs",
    "lineage",
    "row_lineage",
    "llm_calls",
    "rejects",
    "training_exposure",
    "metrics",
)


class Word(Record):
    word: str


def draft(
    registry: Registry, name: str, words: Sequence[str], key: str, inputs: Sequence[VersionRef] = (), edges: str = ""
) -> Draft:
    """A version of words; `edges` gives each row's parent row in the first input, as digits."""
    stored = registry.store.put_table(Word.to_table([Word(word=word) for word in words]))
    data = DataObject(sha256=stored.sha256, rows=len(words), bytes=stored.bytes)
    return Draft(
        name=name,
        kind="dataset",
        type="Word",
        fields=fields_of(Word.arrow_schema()),
        content_id=f"content of {words}",
        pipeline="p",
        step=name.partition("/")[2],
        op="test",
        output="out",
        step_key=key,
        key_object=data,
        inputs=tuple(inputs),
        data=(data,),
        side=side_of_edges(registry, [int(digit) for digit in edges]),
        metrics=(Metric(metric="words", value=len(words)),),
    )


def commit(registry: Registry, *drafts: Draft) -> list[Manifest]:
    """One successful run of one step."""
    run = registry.catalog.begin_run("p", {})
    made = registry.catalog.commit(drafts, run, StepRun(step="s", op="test", outcome="ran"))
    registry.catalog.end_run(run, "succeeded", refs={manifest.name: manifest.version for manifest in made})
    return made


def everything(registry: Registry) -> dict[str, list[tuple[object, ...]]]:
    """The contents of all public views."""
    with registry.session() as session:
        return {view: sorted(session.ask(f"select * from {view}").rows, key=repr) for view in VIEWS}


@pytest.mark.parametrize("params", [{"w": {2: 1, 10: 2}}, {None: 1}, {"w": float("inf")}, {True: 1, "x": 2}], ids=str)
def test_the_tables_show_parameters_as_the_journal_has_them(registry: Registry, params: dict[Any, Any]) -> None:
    registry.catalog.begin_run("p", {"file": "p.yaml", "params": params})
    assert registry.catalog.differences() == []


def test_text_that_is_not_unicode_changes_nothing(registry: Registry) -> None:
    catalog = registry.catalog
    wrong = draft(registry, "p/words", ["x"], "k").model_copy(update={"files": ("caf\udce9.jsonl",)})
    run = catalog.begin_run("p", {})
    for commit in (
        lambda: catalog.begin_run("p\udce9", {}),
        lambda: catalog.commit([wrong], run, None),
        lambda: catalog.commit([], run, StepRun(step="s\udce9", op="test", outcome="ran")),
    ):
        with pytest.raises(UnfitError, match="surrogate"):
            commit()
    with registry.session() as session:
        assert session.ask("select count(*) from runs").rows == [(1,)]
        assert session.ask("select count(*) from versions").rows == [(0,)]
    assert catalog.differences() == []


def test_a_registry_in_a_folder_that_is_not_utf_8_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(InvalidRequestError, match=r"caf\\udce9: the path is not UTF-8"):
        Registry(root).catalog.begin_run("p", {})
    assert not root.exists()


class Pair(Record):
    second: str
    first: str


def test_a_commit_adds_to_the_tables_what_the_files_say(registry: Registry) -> None:
    catalog = registry.catalog
    run = catalog.begin_run("p", {"file": "p.yaml", "params": {"z": 1, "a": {"y": 2, "b": 3}}})
    pair = draft(registry, "p/pair", ["x"], "k").model_copy(update={"fields": fields_of(Pair.arrow_schema())})
    usage = {model: ModelUsage(calls=1) for model in ("solver", "judge")}
    step = StepRun(step="s", op="test", outcome="ran", why=("seed", "code"), notes=("b", "a"), by_model=usage)
    catalog.commit([pair, draft(registry, "p/other", ["y"], "l")], run, step)
    catalog.files.remove(pair.version_id)
    catalog.commit([pair], run, step.model_copy(update={"step": "again"}))
    assert catalog.differences() == []
    catalog.end_run(run, "failed", "boom", refs={"p/pair": 1})
    assert catalog.differences() == []
    with registry.session() as session:
        assert session.ask("select step from step_runs order by step").rows == [("again",), ("s",)]
        assert session.ask("select state, error from runs").rows == [("failed", "boom")]


def three_generations(registry: Registry) -> list[VersionRef]:
    [first] = commit(registry, draft(registry, "p/a", ["x", "y", "z"], "k1"))
    [second] = commit(registry, draft(registry, "p/b", ["Z", "X"], "k2", [first.ref], "20"))
    [third] = commit(registry, draft(registry, "p/c", ["Z!", "Z?", "X!"], "k3", [second.ref], "001"))
    return [first.ref, second.ref, third.ref]


def test_versions_count_from_one_and_equal_work_is_one_version(registry: Registry) -> None:
    numbers = [
        commit(registry, draft(registry, "p/a", words, key))[0].version for words, key in (("x", "1"), ("y", "2"), ("x", "1"))
    ]
    assert numbers == [1, 2, 1]
    with registry.session() as session:
        assert session.resolve("p/a") == ("p/a", 1)  # `latest` moved back with the last run
        assert session.ask("select version, rows from versions").rows == [(1, 1), (2, 1)]


def test_latest_moves_only_when_a_run_succeeds(registry: Registry) -> None:
    run = registry.catalog.begin_run("p", {})
    registry.catalog.commit([draft(registry, "p/a", "x", "1")], run, None)
    registry.catalog.end_run(run, "failed", "boom")
    with registry.session() as session:
        assert session.ask("select latest_version from datasets").rows == [(None,)]
        assert session.ask('select word from "p/a@1"').rows == [("x",)]
        assert session.ask("select state, error from runs").rows == [("failed", "boom")]
        with pytest.raises(QueryError, match="no latest version"):
            session.resolve("p/a")


def test_a_latest_version_that_is_missing_is_an_error_that_names_it(registry: Registry) -> None:
    run = registry.catalog.begin_run("p", {})
    registry.catalog.commit([draft(registry, "p/a", "x", "1")], run, None)
    registry.catalog.end_run(run, "succeeded", refs={"p/a": 2})
    with registry.session() as session:
        with pytest.raises(QueryError, match=r"'p/a' has no latest version, because p/a@2 is missing\. It has p/a@1\."):
            session.resolve("p/a")
        assert session.resolve("p/a@1") == ("p/a", 1)


def test_trace_walks_to_the_seed_rows_and_upstream_to_the_seed_versions(registry: Registry) -> None:
    three_generations(registry)
    with registry.session() as session:
        assert [row[1:4] for row in session.ask("from trace('p/c@1', 1)").rows] == [("p/c", 1, 1), ("p/b", 1, 0), ("p/a", 1, 2)]
        assert session.ask("from trace('p/c', 1)").rows == session.ask("from trace('p/c@1', 1)").rows
        assert session.ask("from trace('p/c@1', 99)").rows == []
        for wrong, words in {"p/nope": "named 'p/nope'", "p/c@9": "no version 9", "p/c@x": "named 'p/c@x'"}.items():
            with pytest.raises(QueryError, match=words):
                session.ask(f"from trace('{wrong}', 0)")
        assert [row[:3] for row in session.ask("from upstream('p/c@1')").rows] == [(1, "p/b", 1), (2, "p/a", 1)]
        assert [row[:3] for row in session.ask("from downstream('p/a@1')").rows] == [(1, "p/b", 1), (2, "p/c", 1)]


def test_a_damaged_manifest_is_an_error_that_names_it(registry: Registry) -> None:
    [manifest] = commit(registry, draft(registry, "p/a", "x", "k"))
    path = registry.root / "manifests" / f"{manifest.version_id}.json"
    document = json.loads(path.read_text())
    document["body"]["name"] = "p/b"
    path.write_text(json.dumps(document))
    with registry.session() as session, pytest.raises(CorruptError, match=manifest.version_id):
        session.table("p/a@1")


def test_a_version_with_missing_objects_is_restored_under_its_number(registry: Registry) -> None:
    [manifest] = commit(registry, draft(registry, "p/a", "xy", "k"))
    registry.store.path(manifest.data[0].sha256).unlink()
    assert not registry.intact(manifest)
    [again] = commit(registry, draft(registry, "p/a", "xy", "k"))
    assert (again.version, registry.intact(again)) == (1, True)
    with registry.session() as session:
        assert session.ask("select version, rows from versions").rows == [(1, 2)]


def test_a_reader_does_not_delay_a_commit(registry: Registry) -> None:
    three_generations(registry)
    with registry.session() as session:
        commit(registry, draft(registry, "p/later", "x", "later"))
        assert session.ask("select count(*) from versions").rows == [(3,)]  # what it saw when it began


def test_lookups_and_queries_read_the_files_when_the_catalog_cannot_be_written(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    [manifest] = commit(registry, draft(registry, "p/a", "x", "k"))
    catalog = registry.catalog
    catalog._intent.write(Intent(marks=True))  # as a change leaves it that a full disk ended

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(catalog._database, "begin", full)
    assert registry.manifest("p/a", 1) == manifest
    assert registry.find_step(manifest.step_key) == [manifest]
    with registry.session() as session:
        assert session.ask("select version from versions").rows == [(1,)]
    assert "the catalog cannot be written" in caplog.text


def test_lookups_do_not_copy_the_catalog(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = three_generations(registry)
    run = registry.catalog.begin_run("q", {"params": {"limit": 3}})
    [later] = registry.catalog.commit([draft(registry, "p/a", "new", "k4")], run, StepRun(step="a", op="test", outcome="ran"))
    registry.catalog.end_run(run, "succeeded", refs={"p/a": later.version})
    monkeypatch.delattr("registry.catalog.derived_tables.DerivedTables.snapshot")
    assert registry.manifest("p/a", 1).ref == first
    assert registry.newest("p/a") == later
    assert registry.newest("p/none") is None
    assert registry.find_step("k4") == [later]
    assert registry.find_step("k9") == []
    assert registry.params_of_latest("q") == {"limit": 3}
    assert registry.params_of_latest("none") is None
    with pytest.raises(KeyError, match="p/a@3"):
        registry.manifest("p/a", 3)
    [fourth] = commit(registry, draft(registry, "p/a", "newer", "k5"))  # the next look-up sees it
    assert registry.newest("p/a") == fourth


def test_plain_duckdb_opens_the_file_between_commits(registry: Registry) -> None:
    three_generations(registry)
    with duckdb.connect(str(registry.catalog.file), read_only=True) as con:
        assert con.execute("select count(*) from versions").fetchall() == [(3,)]
