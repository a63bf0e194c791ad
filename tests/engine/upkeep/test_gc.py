"""Garbage collection removes exactly what is not needed, and never what a reader or a writer is using."""

from __future__ import annotations

import datetime as dt
import os
import signal
import uuid
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from engine.jobs.receipts import Receipts
from engine.upkeep.gc import collect, find
from registry import CorruptError, Hit, LockedError, Manifest, Registry, StepRun
from registry.storage.checked_json import write_checked_json
from registry.upkeep import gc
from registry.upkeep.fsck import fsck
from registry.upkeep.gc import Garbage
from tests.registry.catalog.test_catalog import commit, draft
from tests.registry.children import CONTEXT, exit_code, started

NOW = dt.timedelta(0)
HOUR = dt.timedelta(hours=1)


def versions(registry: Registry) -> list[str]:
    with registry.session() as session:
        return [f"{name}@{number}" for name, number in session.ask("select name, version from versions").rows]


def objects(registry: Registry) -> set[str | None]:
    return {each.sha256 for each in registry.store.listing()}


def needed(*manifests: Manifest) -> set[str | None]:
    return {part.sha256 for m in manifests for part in (m.key_object, *m.data, *m.side, *m.attachments)}


def gone(garbage: Garbage) -> list[str]:
    return [str(manifest.ref) for manifest in garbage.versions]


def traces_end_in_nothing(registry: Registry) -> list[tuple[Any, ...]]:
    query = "select * from lineage l anti join versions v on v.name = l.parent and v.version = l.parent_version"
    with registry.session() as session:
        return session.ask(query).rows


def three_versions(registry: Registry, name: str = "p/a") -> list[Manifest]:
    return [commit(registry, draft(registry, name, words, words))[0] for words in ("one", "two", "three")]


def age(*folders: Path, seconds: float = 7200) -> None:
    """Make files older."""
    for path in (path for folder in folders for path in [folder, *folder.rglob("*")] if path.is_file()):
        os.utime(path, (path.stat().st_mtime - seconds,) * 2)


# -- what stays -------------------------------------------------------------------------------------------------------


def test_superseded_versions_are_removed_with_their_objects_and_numbers_are_not_reused(registry: Registry) -> None:
    *old, last = three_versions(registry)
    assert gone(collect(registry, NOW)) == ["p/a@2", "p/a@1"]
    assert (versions(registry), objects(registry)) == (["p/a@3"], needed(last))
    [again] = commit(registry, draft(registry, "p/a", "one", "one"))
    assert (again.version_id, again.version) == (old[0].version_id, 4)
    assert registry.intact(again)


def test_the_inputs_of_a_kept_version_are_kept(registry: Registry) -> None:
    seed, model, unused = (commit(registry, draft(registry, name, "ab", name))[0] for name in ("p/s", "p/m", "p/u"))
    [middle] = commit(registry, draft(registry, "p/b", "b", "k", [seed.ref], "1").model_copy(update={"models": (model.ref,)}))
    commit(registry, draft(registry, "p/c", "c", "k", [middle.ref], "0"))
    for name in ("p/s", "p/m", "p/u", "p/b"):
        commit(registry, draft(registry, name, "later", "later"))
    assert gone(collect(registry, NOW)) == [str(unused.ref)]
    with registry.session() as session:
        assert [row[1:4] for row in session.ask("from trace('p/c', 0)").rows] == [
            ("p/c", 1, 0), ("p/b", 1, 0), ("p/s", 1, 1), ("p/m", 1, 0),
        ]  # fmt: skip


def test_pinned_versions_and_the_newest_of_a_failed_run_are_kept(registry: Registry) -> None:
    three_versions(registry)
    run = registry.catalog.begin_run("p", {})
    registry.catalog.commit([draft(registry, "p/a", text, text) for text in ("four", "five")], run, None)
    registry.catalog.end_run(run, "failed", "boom")
    registry.catalog.pin("p/a", 1)
    assert gone(find(registry, NOW)) == ["p/a@4", "p/a@2"] or gone(find(registry, NOW)) == ["p/a@2", "p/a@4"]
    collect(registry, NOW)
    assert versions(registry) == ["p/a@1", "p/a@3", "p/a@5"]
    registry.catalog.unpin("p/a", 1)
    assert gone(collect(registry, NOW)) == ["p/a@1"]


def test_recent_files_are_kept_even_if_no_version_needs_them(registry: Registry) -> None:
    three_versions(registry)
    stored = registry.store.put_bytes(b"rows of a source that `engine plan` read")
    found = find(registry, HOUR)
    assert (found.versions, found.objects, [each.sha256 for each in found.young]) == ((), (), [stored.sha256])
    age(registry.root / "objects", registry.root / "manifests")
    registry.store.put_bytes(b"rows of a source that `engine plan` read")
    assert gone(collect(registry, HOUR)) == ["p/a@2", "p/a@1"]
    assert stored.sha256 in objects(registry)
    age(registry.store.path(stored.sha256))
    assert [each.sha256 for each in collect(registry, HOUR).objects] == [stored.sha256]


def test_model_answers_and_run_journals_are_not_touched(registry: Registry) -> None:
    three_versions(registry)
    registry.journal.mkdir()
    (registry.journal / "answers.sqlite").write_bytes(b"paid for")
    age(registry.root)
    before = {path: path.read_bytes() for name in ("journal", "runs") for path in (registry.root / name).rglob("*")}
    collect(registry, NOW)
    assert len(before) == 4
    assert {path: path.read_bytes() for name in ("journal", "runs") for path in (registry.root / name).rglob("*")} == before


# -- what is left over ------------------------------------------------------------------------------------------------


def receipt(registry: Registry, key: str, data: bytes, name: str = "0-16.json") -> str:
    """A receipt like those of engine.jobs.messages, complete enough for a test, and the object that it names."""
    stored = registry.store.put_bytes(data)
    part = {"sha256": stored.sha256, "rows": 1, "bytes": stored.bytes}
    write_checked_json(registry.receipts / key / name, {"outputs": {"out": {"data": part}}, "attachments": [part]})
    return stored.sha256


def test_receipts_of_finished_steps_are_removed_and_those_of_unfinished_ones_keep_their_objects(registry: Registry) -> None:
    *_, last = three_versions(registry)
    of_old, of_last = receipt(registry, "one", b"part of one"), receipt(registry, "three", b"part of three")
    unfinished = receipt(registry, "four", b"part of four")
    damaged = receipt(registry, "four", b"part of which nothing is known", "16-32.json")
    path = registry.receipts / "four" / "16-32.json"
    path.write_bytes(path.read_bytes().replace(b"rows", b"Rows"))
    found = collect(registry, NOW)
    assert {each.where for each in found.leftovers} == {"receipts/one", "receipts/three"}
    assert {of_old, of_last, damaged} <= {each.sha256 for each in found.objects}
    assert objects(registry) == {unfinished, *needed(last)}
    assert [path.name for path in registry.receipts.iterdir()] == ["four"]


def committed(registry: Registry, folder: str, keys: Sequence[str], digests: Sequence[str]) -> None:
    """Note in a folder of receipts that steps with these keys were committed from receipts with these digests."""
    for key in keys:
        Receipts(registry.receipts / folder, registry.store).mark_committed(key, digests)


def test_receipts_of_steps_whose_versions_are_all_gone_are_removed(registry: Registry) -> None:
    *_, last = three_versions(registry)
    parts = [receipt(registry, "base", b"part of a step that is gone")]
    committed(registry, "base", ["gone", "also gone"], ["0-16"])
    found = collect(registry, NOW)
    assert [(each.where, each.what) for each in found.leftovers] == [("receipts/base", "of a finished step")]
    assert {*parts} <= {each.sha256 for each in found.objects}
    assert (objects(registry), list(registry.receipts.iterdir())) == (needed(last), [])


def test_receipts_that_no_step_was_committed_from_and_checkpoints_are_kept(registry: Registry) -> None:
    *_, last = three_versions(registry)
    kept = {receipt(registry, "more", b"of a step that is gone"), receipt(registry, "more", b"finished since", "16-32.json")}
    committed(registry, "more", ["gone"], ["0-16"])
    kept |= {receipt(registry, "paused", b"part")}
    committed(registry, "paused", ["paused"], ["0-16"])  # a commit that a crash prevented: its checkpoints are still there
    checkpoint = Receipts(registry.receipts / "paused", registry.store).checkpoints / "100.bin"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"trained for hours")
    found = collect(registry, NOW)
    assert (found.leftovers, [each.where for each in found.paused]) == ((), ["receipts/paused"])
    assert objects(registry) == {*kept, *needed(last)}
    assert checkpoint.exists()


class Step:
    """The files of a finished step. Comparing steps with each other would take forever where there are many."""

    step_keys, unfinished, committed = frozenset({"one"}), False, True
    where, bytes, checkpoint_bytes, in_use = "receipts/one", 1, 0, False
    objects: frozenset[str] = frozenset()

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared with another step")

    def remove(self, *, run_is_live: bool) -> bool:
        raise AssertionError("nothing is removed")


def test_looking_for_garbage_compares_no_step_with_every_other_one(registry: Registry) -> None:
    three_versions(registry)
    assert len(gc.find(registry, NOW, lambda oldest: [Step() for _ in range(50)]).leftovers) == 50


def test_a_step_that_is_running_again_keeps_its_versions_and_receipts(registry: Registry) -> None:
    three_versions(registry)
    part = receipt(registry, "one", b"part of one")
    with FileLock(registry.receipts / "one" / "lock"):
        found = collect(registry, NOW)
    assert (gone(found), found.leftovers) == (["p/a@2"], ())
    assert part in objects(registry)
    assert gone(collect(registry, NOW)) == ["p/a@1"]


def test_receipts_of_a_version_with_missing_objects_are_kept(registry: Registry) -> None:
    *_, last = three_versions(registry)
    receipt(registry, "three", b"part of three")
    registry.store.path(last.data[0].sha256).unlink()
    assert find(registry, NOW).leftovers == ()


def test_leftovers_of_crashes_are_removed_when_they_are_old(registry: Registry) -> None:
    three_versions(registry)
    places = ("objects/ab/.abcd.1.tmp", "manifests/.x.2.tmp", ".y.3.tmp", "registry.building", "registry.duckdb.damaged-1")
    for place in places:
        path = registry.root / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left")
    found = find(registry, HOUR)
    assert (found.objects, found.leftovers) == ((), ())
    age(registry.root)
    found = collect(registry, HOUR)
    assert {*(each.where for each in found.leftovers), *(f"objects/{each.name}" for each in found.objects)} >= set(places)
    assert not any((registry.root / place).exists() for place in places)


# -- who is in the way ------------------------------------------------------------------------------------------------


def _read_late(root: Path, held: Connection) -> None:
    """A reader that queries long after it started."""
    with Registry(root).session() as session:
        held.send(None)
        held.recv()
        held.send(session.ask('select word from "p/a@1"').rows)


def test_a_running_reader_is_named_and_loses_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    three_versions(registry)
    here, there = CONTEXT.Pipe()
    reader = started(_read_late, registry.root, there)
    try:
        here.recv()
        monkeypatch.setenv("ENGINE_LOCK_SECONDS", "0.1")
        with pytest.raises(LockedError, match=rf"is being read by process {reader.pid} \("):
            collect(registry, NOW)
        assert gone(find(registry, NOW)) == ["p/a@2", "p/a@1"]  # looking is not in the way
        commit(registry, draft(registry, "p/b", "x", "x"))  # and commits need not wait
        here.send(None)
        assert here.recv() == [("o",), ("n",), ("e",)]
    finally:
        reader.join()
    assert gone(collect(registry, NOW)) == ["p/a@2", "p/a@1"]


def _find_and_wait(root: Path, held: Connection) -> None:
    """A run that finds an old version and objects of another one, and commits later."""
    registry = Registry(root)
    run = registry.catalog.begin_run("p", {})
    [one] = registry.find_step("one")
    made = draft(registry, "p/b", "two", "two", [one.ref], "0")
    held.send(None)
    held.recv()
    registry.catalog.commit([made], run, StepRun(step="b", op="test", outcome="ran"))
    registry.catalog.end_run(run, "succeeded", refs={"p/b": 1, "p/a": 1})


def test_objects_found_by_a_live_run_are_kept(registry: Registry) -> None:
    three_versions(registry)
    age(registry.root / "objects", registry.root / "manifests")
    here, there = CONTEXT.Pipe()
    run = started(_find_and_wait, registry.root, there)
    try:
        here.recv()
        found = collect(registry, NOW)
        assert found.live_since is not None
        assert gone(found) == ["p/a@2"]  # no one but the run has found version 1 since
        here.send(None)
    finally:
        run.join()
    assert run.exitcode == 0
    with registry.session() as session:
        assert session.ask("select name, latest_version from datasets").rows == [("p/a", 1), ("p/b", 1)]
        assert [row[1:4] for row in session.ask("from trace('p/b', 0)").rows] == [("p/b", 1, 0), ("p/a", 1, 0)]
    assert fsck(registry).errors == []


def test_an_old_version_that_a_live_run_made_again_is_kept(registry: Registry) -> None:
    first, *_ = three_versions(registry)
    age(registry.root / "objects", registry.root / "manifests")
    run = registry.catalog.begin_run("p", {})
    assert registry.catalog.commit([draft(registry, "p/a", "one", "one")], run, None) == [first]
    assert gone(collect(registry, NOW)) == ["p/a@2"]
    registry.catalog.end_run(run, "succeeded", refs={"p/a": 1})
    assert registry.intact(first)


def test_an_object_that_is_found_again_is_kept(registry: Registry) -> None:
    stored = registry.store.put_bytes(b"found")
    age(registry.root / "objects")
    [listed] = registry.store.listing()
    horizon = dt.datetime.now().timestamp() - 3600
    registry.store.put_bytes(b"found")
    assert not registry.store.remove_old(listed.name, horizon)
    assert registry.store.read_bytes(stored.sha256) == b"found"
    age(registry.root / "objects")
    assert registry.store.remove_old(listed.name, horizon)
    assert not registry.store.remove_old(listed.name, horizon)


def _write(root: Path, who: int, runs: int) -> None:
    """Runs that repeatedly make the same few versions, each from the previous one."""
    registry = Registry(root)
    for number in range(runs):
        run = registry.catalog.begin_run("p", {})
        text = "xyz"[number % 3]
        inputs: Sequence[Any] = ()
        refs = {}
        for name in (f"p/{who}.a", f"p/{who}.b", "p/shared"):
            made = registry.find_step(f"{name} {text}")[:1]
            if made:
                registry.catalog.record_hits(run, [Hit(StepRun(step=name, op="test", outcome="hit"), tuple(made))])
            else:
                drafts = [draft(registry, name, [text], f"{name} {text}", inputs, "0" if inputs else "")]
                made = registry.catalog.commit(drafts, run, StepRun(step=name, op="test", outcome="ran"))
            [manifest] = made
            [row] = registry.store.read_table(manifest.data[0].sha256).to_pylist()
            assert row["word"] == text
            refs[name], inputs = manifest.version, [manifest.ref]
        registry.catalog.end_run(run, "succeeded", refs=refs)


def _read(root: Path, done: Any) -> None:
    registry = Registry(root)
    while not done.wait(0.02):
        with registry.session() as session:
            for name, number in session.ask("select name, version from versions").rows:
                assert len(session.ask(f'from "{name}@{number}"').rows) == 1
                assert session.ask(f"from trace('{name}@{number}', 0)").rows
        assert traces_end_in_nothing(registry) == []


def _collect(root: Path, done: Any, counted: Any) -> None:
    registry = Registry(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            gc, "_CLOCK_SKEW", dt.timedelta(seconds=0.05)
        )  # otherwise, nothing from the last minute is removed during a run
        while not done.wait(0.02):
            found = collect(registry, NOW)
            counted.value += len(found.versions) if found.live_since else 0


@pytest.mark.parametrize(
    ("writers", "readers", "runs"), [(2, 1, 2), pytest.param(4, 2, 40, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
@pytest.mark.proof
def test_readers_and_writers_are_not_disturbed_by_gc(registry: Registry, writers: int, readers: int, runs: int) -> None:
    commit(registry, draft(registry, "p/first", "x", "first"))
    done, counted = CONTEXT.Event(), CONTEXT.Value("i", 0)
    others = [started(_read, registry.root, done) for _ in range(readers)]
    others += [started(_collect, registry.root, done, counted) for _ in range(readers)]
    writing = [started(_write, registry.root, who, runs) for who in range(writers)]
    for writer in writing:
        writer.join()
    collect(registry, NOW)
    done.set()
    for other in others:
        other.join()
    print("COUNTED", counted.value)
    assert [process.exitcode for process in (*writing, *others)] == [0] * (writers + 2 * readers)
    collect(registry, NOW)
    report = fsck(registry)
    assert (report.errors, report.notes) == ([], [])
    latest = {f"p/{who}.{part}" for who in range(writers) for part in "ab"} | {"p/first", "p/shared"}
    with registry.session() as session:
        assert {name for (name,) in session.ask("select name from datasets where latest_version is not null").rows} == latest


# -- kills and damage -------------------------------------------------------------------------------------------------


def _collect_and_die(root: Path, point: str) -> None:
    os.environ["ENGINE_FAULT"] = point
    collect(Registry(root), NOW)


@pytest.mark.proof
def test_a_killed_gc_leaves_whole_versions_and_the_next_one_finishes(registry: Registry) -> None:
    points = ("leftover.removed", "manifest.removed", "catalog.changed", "object.removed")
    for number, point in enumerate(points):
        [first] = commit(registry, draft(registry, "p/a", "x", f"x{number}"))
        commit(registry, draft(registry, "p/a", "y", f"y{number}", [first.ref]), draft(registry, "p/a", "z", f"z{number}"))
        receipt(registry, first.step_key, f"part {number}".encode())
        assert exit_code(_collect_and_die, registry.root, point) == -signal.SIGKILL, f"{point} was not reached"
        assert registry.catalog.differences() == [], point
        assert fsck(registry).errors == [], point
        assert traces_end_in_nothing(registry) == [], point
    collect(registry, NOW)
    assert versions(registry) == [f"p/a@{3 * len(points)}"]
    report = fsck(registry)
    assert (report.errors, report.notes, list(registry.receipts.iterdir())) == ([], [], [])


def test_nothing_is_removed_while_the_needed_objects_are_unknown(registry: Registry) -> None:
    *_, last = three_versions(registry)
    path = registry.root / "manifests" / f"{last.version_id}.json"
    whole = path.read_bytes()
    before = objects(registry)
    path.write_bytes(whole.replace(b"three", b"four"))
    for look in (find, collect):
        with pytest.raises(CorruptError, match=last.version_id):
            look(registry, NOW)
    path.write_bytes(whole)
    (registry.root / "runs" / f"{last.run_id}.ndjson").rename(registry.root / "elsewhere")
    for look in (find, collect):
        with pytest.raises(CorruptError, match="unknown what is needed"):
            look(registry, NOW)
    assert objects(registry) == before
    assert len(list(path.parent.iterdir())) == 3


# -- at a URL ---------------------------------------------------------------------------------------------------------


def test_at_a_url_objects_are_removed_with_their_copies_unless_a_run_is_live(workdir: Path) -> None:
    registry = Registry(f"memory://{uuid.uuid4().hex}")
    *_, last = three_versions(registry)
    run = registry.catalog.begin_run("p", {})
    assert collect(registry, NOW).objects == ()
    registry.catalog.end_run(run, "failed")
    found = collect(registry, NOW)
    assert gone(found) == ["p/a@2", "p/a@1"]
    assert len(found.objects) == 2
    assert objects(registry) == needed(last)
    assert {path.name for path in registry.store.root.rglob("*") if path.is_file()} == needed(last)
    assert fsck(registry).findings == ()


def test_copies_of_objects_missing_at_the_url_are_removed(workdir: Path) -> None:
    registry = Registry(f"memory://{uuid.uuid4().hex}")
    three_versions(registry)
    copy = registry.store.root / "ab" / ("ab" * 32)
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(b"copy")
    [left] = collect(registry, NOW).leftovers
    assert (left.where, copy.exists()) == (copy.relative_to(registry.root).as_posix(), False)
