"""The DuckDB file is disposable: the other files are enough to rebuild an equal one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pytest

from registry import CorruptError, Draft, Manifest, Registry, StepRun
from tests.registry.catalog.test_catalog import commit, draft, everything, three_generations
from tests.registry.children import exit_code

Views = dict[str, list[tuple[object, ...]]]


def asides(registry: Registry) -> list[Path]:
    """DuckDB files that were moved out of the way."""
    return list(registry.root.glob("registry.duckdb.damaged-*"))


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Views]:
    """A registry with every kind of change in its history, to be copied."""
    registry = Registry(tmp_path_factory.mktemp("history"))
    first, *_ = three_generations(registry)
    commit(registry, draft(registry, "p/a", ["x"], "other"))
    gone = commit(registry, draft(registry, "p/b", ["q"], "other"), draft(registry, "p/gone", ["g"], "gone"))
    registry.catalog.forget([manifest.version_id for manifest in gone])
    registry.catalog.pin(first.name, first.version)
    run = registry.catalog.begin_run("other", {"params": {"limit": 3}})
    registry.catalog.commit([], run, StepRun(step="bad", op="test", outcome="failed", rows_in=3, rejected=3))
    registry.catalog.end_run(run, "failed", "it's 'broken'")
    return registry.root, everything(registry)


@pytest.fixture
def before(registry: Registry, history: tuple[Path, Views]) -> Views:
    """The views of the test's registry, which has that history."""
    shutil.copytree(history[0], registry.root)
    return history[1]


def test_rebuild_gives_equal_views(registry: Registry, before: Views) -> None:
    registry.catalog.file.unlink()
    assert everything(registry) == before
    assert registry.catalog.rebuild() == 4
    assert everything(registry) == before
    assert registry.catalog.differences() == []


def test_a_log_of_the_old_file_does_not_spoil_a_rebuild(registry: Registry, before: Views) -> None:
    code = """
import os, sys, duckdb
con = duckdb.connect(sys.argv[1])
con.execute("pragma disable_checkpoint_on_shutdown"); con.execute("delete from metrics"); os._exit(9)
"""
    for gone in (False, True):
        subprocess.run([sys.executable, "-c", code, str(registry.catalog.file)], check=False)
        assert registry.catalog.file.with_name("registry.duckdb.wal").exists()
        if gone:
            registry.catalog.file.unlink()
        assert everything(registry) == before


@pytest.mark.parametrize(
    "older", ["drop table layout", "update layout set digest = 'of older tables'", "alter table inputs drop column opaque"]
)
def test_a_file_of_an_older_layout_is_rebuilt_silently(
    registry: Registry, before: Views, older: str, caplog: pytest.LogCaptureFixture
) -> None:
    with duckdb.connect(str(registry.catalog.file)) as con:
        con.execute(older)
        con.execute("update layout set digest = ''" if "inputs" in older else "select 1")
    run = registry.catalog.begin_run("p", {})
    registry.catalog.end_run(run, "failed")
    after = everything(registry)
    assert [row for row in after["runs"] if row[0] != run] == before["runs"]
    assert (caplog.records, asides(registry)) == ([], [])


def test_a_damaged_manifest_stops_a_rebuild_and_the_catalog_stays(registry: Registry, before: Views) -> None:
    [manifest, *_] = sorted((registry.root / "manifests").iterdir())
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows":', b'"rowz":', 1))
    with pytest.raises(CorruptError, match=manifest.name):
        registry.catalog.rebuild()
    assert everything(registry) == before


def test_a_manifest_under_the_wrong_name_is_an_error(registry: Registry, before: Views) -> None:
    one, other, *_ = sorted((registry.root / "manifests").iterdir())
    one.write_bytes(other.read_bytes())
    with pytest.raises(CorruptError, match=f"{one.name} is damaged: it is the manifest of version {other.stem}"):
        registry.catalog.rebuild()


def test_pins_and_numbers_outlive_the_file(registry: Registry, before: Views) -> None:

    def newest() -> list[Manifest]:
        return commit(registry, draft(registry, "p/a", ["new"], "new"))

    registry.catalog.pin("p/b", 1)
    registry.catalog.unpin("p/b", 1)
    for _ in range(2):
        registry.catalog.forget([newest()[0].version_id])
        registry.catalog.rebuild()
    [made] = newest()
    assert made.version == 5  # 3 and 4 belonged to others
    with registry.catalog.snapshot() as con:
        assert con.execute("select name, version from internal.pins").fetchall() == [("p/a", 1)]
    with pytest.raises(KeyError, match="p/b@1 is not pinned"):
        registry.catalog.unpin("p/b", 1)
    with pytest.raises(KeyError, match="p/b@9"):
        registry.catalog.pin("p/b", 9)


def test_a_damaged_pin_is_an_error_that_names_it(registry: Registry, before: Views) -> None:
    [pin] = (registry.root / "pins").iterdir()
    pin.write_bytes(pin.read_bytes().replace(b"p/a", b"p/b"))
    with pytest.raises(CorruptError, match=pin.name):
        registry.catalog.rebuild()


def _write(registry: Registry) -> None:
    commit(registry, draft(registry, "p/new", ["new"], "new"))


@pytest.mark.parametrize("use", [everything, _write], ids=["read", "write"])
@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 999, None], ids=["empty", "foreign", "zeros"])
def test_a_file_that_does_not_open_is_kept_and_rebuilt(
    registry: Registry,
    before: Views,
    use: Callable[[Registry], object],
    damage: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry.catalog.file.write_bytes(b"\0" * registry.catalog.file.stat().st_size if damage is None else damage)
    use(registry)
    [aside] = asides(registry)
    [message] = [record.getMessage() for record in caplog.records]
    assert f"{registry.catalog.file} is damaged" in message
    assert f"moved to {aside.name}" in message
    after = everything(registry)
    assert all(set(before[view]) <= set(after[view]) for view in ("versions", "lineage", "row_lineage", "runs"))
    assert registry.catalog.differences() == []


def _survive_flips(root: Path, places: Sequence[int], before: Views) -> None:
    """Flip a bit of each byte, and read; every third time, write and read."""
    registry = Registry(root)
    good, answers = registry.catalog.file.read_bytes(), _looked_up(registry)
    for number, wanted in enumerate(places):
        place = wanted % len(good)
        registry.catalog.file.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        if number % 3 == 2:
            [manifest] = commit(registry, draft(registry, "p/new", [str(number)], str(number)))
            assert manifest.version == number // 3 + 1, f"byte {place}"
            assert registry.catalog.differences() == [], f"byte {place}"
            good = registry.catalog.file.read_bytes()
            before = everything(registry)
        else:
            assert _looked_up(registry) == answers, f"byte {place}"
            assert everything(registry) == before, f"byte {place}"


def _looked_up(registry: Registry) -> list[object]:
    """Results of lookups that do not copy the catalog."""
    versions = [("p/a", 1), ("p/a", 2), ("p/b", 1), ("p/c", 1)]
    found = [registry.manifest(*version).step_key for version in versions]
    return [found, [registry.find_step(key) for key in found], registry.params_of_latest("p")]


@pytest.mark.parametrize("flips", [12, pytest.param(120, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
@pytest.mark.proof
def test_a_flipped_byte_never_causes_wrong_rows(registry: Registry, before: Views, flips: int) -> None:
    size = registry.catalog.file.stat().st_size
    # As many in the headers (the first 12 KiB) as in the rest of the file.
    places = [*range(0, 12288, 12288 * 2 // flips), *range(12288, size, (size - 12288) * 2 // flips)]
    assert exit_code(_survive_flips, registry.root, places, before) == 0


def test_a_commit_with_missing_objects_changes_nothing(registry: Registry, before: Views) -> None:
    run = registry.catalog.begin_run("p", {})
    made: list[Draft] = [draft(registry, "p/d", ["d"], "d"), draft(registry, "p/e", ["e"], "e")]
    registry.store.path(made[1].data[0].sha256).unlink()
    with pytest.raises(CorruptError, match=f"lacks 2 objects of p/e, for example {made[1].data[0].sha256}"):
        registry.catalog.commit(made, run, StepRun(step="s", op="test", outcome="ran"))
    registry.catalog.end_run(run, "failed")
    assert everything(registry)["versions"] == before["versions"]
