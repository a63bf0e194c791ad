"""fsck reports all damage, the versions that it affects and what to do; and it changes nothing."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import DataObject, Draft, Manifest, Metric, ObjectStore, Record, Registry, VersionRef
from registry.catalog.write_ahead import Intent, IntentFile
from registry.records.content import content_id
from registry.records.schema import fields_of
from registry.storage.checked_json import write_checked_json
from registry.upkeep.fsck import Finding, fsck
from registry.upkeep.row_proof import disproof
from tests.registry.edges import side_of_edges
from tests.registry.records.test_record import Everything, everything


class Word(Record):
    text: str
    tags: list[str] = []


def draft(
    registry: Registry, name: str, texts: Sequence[str], inputs: Sequence[VersionRef] = (), edges: Sequence[int] = ()
) -> Draft:
    """A version of words; `edges` are the rows of the first input that they came from."""
    table = Word.to_table([Word(text=text, tags=[text, "tag"]) for text in texts])
    rows = registry.store.put_table(table)
    key = registry.store.put_bytes(f"key of {name} {texts}".encode())
    return Draft(
        name=name,
        kind="dataset",
        type="Word",
        fields=fields_of(Word.arrow_schema()),
        content_id=content_id(Word.arrow_schema(), [table]),
        pipeline=name.partition("/")[0],
        step="step",
        op="test",
        output="",
        step_key=f"key of {name} {texts}",
        key_object=DataObject(sha256=key.sha256, rows=0, bytes=key.bytes),
        inputs=tuple(inputs),
        data=(DataObject(sha256=rows.sha256, rows=len(texts), bytes=rows.bytes),),
        side=side_of_edges(registry, edges),
        metrics=(Metric(metric="loss", value=math.nan), Metric(metric="loss", value=math.inf)),
    )


def commit(registry: Registry, *drafts: Draft) -> list[Manifest]:
    """In a run that succeeds."""
    run = registry.catalog.begin_run(drafts[0].pipeline, {})
    made = registry.catalog.commit(drafts, run, None)
    registry.catalog.end_run(run, "succeeded", refs={manifest.name: manifest.version for manifest in made})
    return made


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with p/a@1, and q/b@1 made from it; p/gone@1 was removed."""
    registry = Registry(tmp_path_factory.mktemp("kept") / "registry")
    [parent, gone] = commit(registry, draft(registry, "p/a", ["x", "y", "z"]), draft(registry, "p/gone", ["w"]))
    commit(registry, draft(registry, "q/b", ["X", "Z"], [parent.ref], [0, 2]))
    registry.catalog.pin("p/a", 1)
    registry.catalog.forget([gone.version_id])
    for object_of_none in (*gone.data, gone.key_object):
        registry.store.path(object_of_none.sha256).unlink()
    return registry.root


@pytest.fixture
def whole(kept: Path, tmp_path: Path) -> Registry:
    """A copy of it, to be damaged."""
    shutil.copytree(kept, tmp_path / "registry")
    return Registry(tmp_path / "registry")


def flip(path: Path, position: int = -10) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def only(findings: Sequence[Finding]) -> Finding:
    """The only one."""
    [finding] = findings
    return finding


def files(root: Path) -> dict[str, bytes]:
    """The contents of a folder, without the files that name lock holders."""
    paths = [path for path in root.rglob("*") if path.is_file() and ".lock" not in path.name]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths if path.stat().st_size}


@pytest.mark.parametrize("deep", [False, True])
def test_an_undamaged_registry_is_clean(whole: Registry, deep: bool) -> None:
    report = fsck(whole, deep=deep)
    assert report.findings == ()
    counts = {kind: tally.count for kind, tally in report.checked.items()}
    assert counts == {"manifests": 2, "run journals": 2, "pins": 1, "numbers": 1, "catalog": 1, "objects": 5}


def test_damaged_files_are_not_changed(whole: Registry) -> None:
    for folder in ("manifests", "runs", "objects", "pins"):
        flip(next(path for path in (whole.root / folder).rglob("*") if path.is_file() and path.stat().st_size))
    flip(whole.catalog.file)
    before = files(whole.root)
    assert len(fsck(whole, deep=True).errors) == 5
    assert files(whole.root) == before


def test_a_missing_or_short_object_is_found_without_reading_objects(whole: Registry) -> None:
    manifest = whole.manifest("q/b", 1)
    gone, short = whole.store.path(manifest.data[0].sha256), whole.store.path(manifest.side[0].sha256)
    gone.unlink()
    os.truncate(short, 100)
    found = {finding.where: finding for finding in fsck(whole).errors}
    assert found.keys() == {f"objects/{path.parent.name}/{path.name}" for path in (gone, short)}
    assert {finding.what.partition(" instead")[0] for finding in found.values()} == {
        "(rows) is missing",
        "(lineage) has 100 bytes",
    }
    assert {finding.versions for finding in found.values()} == {("q/b@1",)}
    assert all("run q again" in finding.advice for finding in found.values())


def test_a_flipped_bit_in_an_object_is_found_by_a_deep_check(whole: Registry) -> None:
    flip(whole.store.path(whole.manifest("p/a", 1).data[0].sha256), 20)
    assert fsck(whole).findings == ()
    finding = only(fsck(whole, deep=True).findings)
    assert finding.what == "(rows) is damaged: its bytes do not have this SHA-256"
    assert finding.versions == ("p/a@1",)


@pytest.mark.parametrize("folder", ["manifests", "runs", "pins", "numbers"])
def test_a_flipped_bit_in_a_small_file_is_found(whole: Registry, folder: str) -> None:
    damaged = next((whole.root / folder).glob("*json"))
    hit = (str(whole.catalog.manifest(damaged.stem).ref),) if folder == "manifests" else ()
    flip(damaged)
    report = fsck(whole)
    assert only(report.errors).where == f"{folder}/{damaged.name}"
    assert only(report.errors).what.startswith("is damaged")
    assert only(report.errors).versions == hit
    assert only(report.notes).what.startswith("was not compared")


def test_a_missing_small_file_is_found_by_the_catalog(whole: Registry) -> None:
    manifest = whole.manifest("q/b", 1)
    (whole.root / "manifests" / f"{manifest.version_id}.json").unlink()
    whole.catalog.runs.path(manifest.run_id).unlink()
    missing = {finding.where: finding.versions for finding in fsck(whole).errors if finding.what == "is missing"}
    assert missing == {f"manifests/{manifest.version_id}.json": ("q/b@1",), f"runs/{manifest.run_id}.ndjson": ()}


def test_a_catalog_that_differs_is_found(whole: Registry) -> None:
    with duckdb.connect(str(whole.catalog.file)) as catalog:
        catalog.execute(
            "update versions set rows = 7 where name = 'p/a'; delete from refs; insert into pins values ('x', 1, null)"
        )
    errors = [finding.what for finding in fsck(whole).errors]
    assert [text.split()[1] for text in errors] == ["versions", "refs", "pins"]
    assert "has 1 row too many and 1 too few" in errors[0]
    whole.catalog.rebuild()
    assert fsck(whole).findings == ()


def test_a_damaged_catalog_is_found_and_not_changed(whole: Registry) -> None:
    flip(whole.catalog.file, 20000)
    finding = only(fsck(whole).errors)
    assert finding.where == "registry.duckdb"
    assert finding.what.startswith("is damaged: ")
    with whole.session():
        pass
    assert fsck(whole).errors == []
    assert only(fsck(whole).notes).what == "is a damaged catalog that was replaced"


def test_what_the_next_command_repairs_is_a_note(whole: Registry) -> None:
    IntentFile(whole.root / "registry.intent").write(Intent(versions=("some",)))
    assert only(fsck(whole).findings).where == "registry.intent"
    with whole.session():
        pass
    assert fsck(whole).findings == ()
    whole.catalog.file.unlink()
    assert only(fsck(whole).findings).what == "must be rebuilt: it does not exist"


def test_leftovers_are_notes_unless_they_are_damaged(whole: Registry) -> None:
    stored, named = whole.store.put_bytes(b"of a run that did not end"), whole.store.put_bytes(b"of a part of a step")
    (whole.root / "objects" / "ab").mkdir(exist_ok=True)
    for name in ("objects/ab/.x.tmp", "manifests/.x.tmp", "registry.building"):
        (whole.root / name).write_bytes(b"half")
    report = fsck(whole, deep=True, named={named.sha256})
    assert report.errors == []
    assert [note.where for note in report.notes] == ["objects", "objects", "manifests/.x.tmp", "registry.building"]
    assert report.notes[0].what.startswith(f"1 file ({stored.bytes} bytes) that no version refers to")
    flip(whole.store.path(stored.sha256))
    flip(whole.store.path(named.sha256))
    advices = {
        finding.where.rpartition("/")[2]: finding.advice for finding in fsck(whole, deep=True, named={named.sha256}).errors
    }
    assert advices[stored.sha256] == "delete it: no version needs it"
    assert advices[named.sha256].startswith("delete it: its partition runs again")


def test_two_manifests_that_claim_to_be_the_same_version_are_found(whole: Registry) -> None:
    first = whole.manifest("p/a", 1)
    other = first.model_copy(update={"step_key": "other"})
    write_checked_json(whole.root / "manifests" / f"{other.version_id}.json", other.model_dump(mode="json"))
    assert only(fsck(whole).errors).versions == ("p/a@1",)


@pytest.mark.parametrize(
    ("part", "changes", "what"),
    [
        ("content", {"content_id": "0" * 64}, "its rows do not have its content id"),
        ("data", {"rows": 3}, "object .* has 2 rows, but should have 3"),
        ("side", {"rows": 3}, "lineage object .* has 2 rows, but should have 3"),
        ("side", {"base": 1}, "lineage object .* names rows that the version does not have"),
        ("sizes", {("p/a", 1): 2}, "lineage object .* names rows that p/a@1 does not have"),
    ],
)
def test_rows_are_compared_with_the_manifest(whole: Registry, part: str, changes: dict[Any, Any], what: str) -> None:
    manifest = whole.manifest("q/b", 1)
    assert list(disproof(whole.store, manifest, {("p/a", 1): 3})) == []
    if part in ("data", "side"):
        [named] = getattr(manifest, part)
        manifest = manifest.model_copy(update={part: (named.model_copy(update=changes),)})
    elif part == "content":
        manifest = manifest.model_copy(update=changes)
    found = list(disproof(whole.store, manifest, changes if part == "sizes" else {("p/a", 1): 3}))
    assert re.fullmatch(what, found[0])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(everything, min_size=1, max_size=4))
def test_stored_rows_of_any_type_pass_the_check(tmp_path: Path, rows: list[Everything]) -> None:
    store = ObjectStore(tmp_path)
    table = Everything.to_table(rows)
    stored = store.read_table(store.put_table(table).sha256)
    assert content_id(stored.schema, [stored]) == content_id(Everything.arrow_schema(), [table])
