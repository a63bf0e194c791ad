"""The object store returns what was written, or an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry import CorruptError, ObjectStore
from registry.catalog import side_schemas
from registry.query import side_tables
from registry.storage.checked_json import read_checked_json, write_checked_json
from registry.storage.encodings import repeating
from registry.storage.files import LocalFiles

LINEAGE = side_tables.with_columns(side_schemas.LINEAGE, (("child", pa.string()), ("child_version", pa.int32())))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def test_the_same_bytes_are_stored_once(store: ObjectStore) -> None:
    assert store.put_bytes(b"x" * 1000) == store.put_bytes(b"x" * 1000)
    assert len([path for path in store.root.rglob("*") if path.is_file()]) == 1


def test_an_object_that_is_stored_again_is_young_again(store: ObjectStore) -> None:
    stored = store.put_table(pa.table({"n": [1, 2]}))
    store.read_recent(stored.sha256)
    os.utime(store.path(stored.sha256), (0, 0))
    assert store.put_again(stored.sha256) == stored
    assert store.path(stored.sha256).stat().st_mtime > 0


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: os.truncate(path, 9)], ids=["removed", "cut"])
def test_an_object_that_was_lost_after_it_was_read_has_to_be_written_again(
    store: ObjectStore, lose: Callable[[Path], None]
) -> None:
    table = pa.table({"n": [1, 2]})
    stored = store.put_table(table)
    assert store.put_again(stored.sha256) is None  # it was not read
    store.read_recent(stored.sha256)
    lose(store.path(stored.sha256))
    assert store.put_again(stored.sha256) is None
    assert store.put_table(table) == stored
    assert store.put_again(stored.sha256) == stored


def test_a_file_and_its_bytes_are_the_same_object(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 999)
    assert store.put_file(tmp_path / "f") == store.put_bytes(b"abc" * 999)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a" * 63, "A" * 64, "", "/" + "a" * 63])
def test_only_a_hash_is_a_name(store: ObjectStore, name: str) -> None:
    for use in (store.path, store.open, store.read_table, store.verify):
        with pytest.raises(ValueError, match="not an object name"):
            use(name)


def test_an_open_object_can_be_read_after_its_removal(store: ObjectStore) -> None:
    sha256 = store.put_bytes(b"0123456789").sha256
    with store.open(sha256) as opened:
        store.remove(f"{sha256[:2]}/{sha256}")
        opened.seek(4)
        assert opened.read() == b"456789"


def test_an_object_can_be_empty(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert store.read_bytes(store.put_file(tmp_path / "f").sha256) == b""


# -- damage ---------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_is_an_error_and_never_other_rows(store: ObjectStore) -> None:
    table = pa.table({"n": list(range(2000)), "s": [f"row {i}" for i in range(2000)]})
    sha256 = store.put_table(table).sha256
    for _ in _flipped(store.path(sha256), 60):
        for read in (store.read_table, store.read_bytes, store.open, store.verify):
            with pytest.raises(CorruptError, match=f"object {sha256} in {store.root} is damaged"):
                read(sha256)
    assert store.read_table(sha256).equals(table)


@pytest.mark.parametrize("flips", [40, pytest.param(100_000, marks=pytest.mark.soak)])
def test_a_query_finds_a_flipped_byte_and_ignores_those_of_other_versions(store: ObjectStore, flips: int) -> None:
    edges = {
        version: pa.table(
            {"child_row": range(500), "input": [0] * 500, "parent_row": range(version, 500 + version)}, side_schemas.LINEAGE
        )
        for version in (1, 2, 3)
    }
    objects = {version: store.put_table(table, delta=("child_row", "parent_row")) for version, table in edges.items()}
    parts = [side_tables.Fragment(stored.sha256, {"child": "p/x", "child_version": v}) for v, stored in objects.items()]
    query = "select sum(parent_row), count(*) from edges where child_version = {}"
    with duckdb.connect() as con:
        con.register("edges", side_tables.scan(parts, LINEAGE, store))
        for _ in _flipped(store.path(objects[2].sha256), flips):
            assert con.execute(query.format(1)).fetchall() == [(sum(range(1, 501)), 500)]
            for broken in (query.format(2), "select count(*) from edges", "select * from edges where parent_row = 400"):
                with pytest.raises(duckdb.Error, match=f"object {objects[2].sha256} .*is damaged"):
                    con.execute(broken).fetchall()
        assert con.execute("select count(*), max(parent_row) from edges").fetchall() == [(1500, 502)]


def test_a_query_opens_only_the_objects_that_pass_its_filter(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"child_row": [7], "input": [0], "parent_row": [7]}, side_schemas.LINEAGE)
    objects = [store.put_table(table.set_column(2, "parent_row", pa.array([v]))).sha256 for v in range(40)]
    data = side_tables.scan(
        [side_tables.Fragment(sha256, {"child": "x", "child_version": v}) for v, sha256 in enumerate(objects)], LINEAGE, store
    )
    opened: list[str] = []
    really_open = store.open
    monkeypatch.setattr(store, "open", lambda sha256: opened.append(sha256) or really_open(sha256))
    with duckdb.connect() as con:
        con.register("edges", data)
        assert con.execute("select parent_row from edges where child = 'x' and child_version = 30").fetchall() == [(30,)]
        assert opened == [objects[30]]
        assert con.execute("select parent_row from edges limit 3").fetchall() == [(0,), (1,), (2,)]
        assert len(opened) < 30
        assert con.execute("select parent_row from edges").fetchall() == [(v,) for v in range(40)]


def test_the_lookup_of_a_row_in_packed_columns_decodes_a_small_part(store: ObjectStore) -> None:
    columns = {"child_row": range(200_000), "input": [0] * 200_000, "parent_row": range(200_000)}
    stored = store.put_table(pa.table(columns, side_schemas.LINEAGE), delta=("child_row", "parent_row"))
    groups = pq.ParquetFile(store.open(stored.sha256)).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [65_536, 65_536, 65_536, 3_392]
    assert stored.bytes < 20_000


def test_only_columns_that_repeat_have_a_dictionary(store: ObjectStore) -> None:
    messages = [[{"role": "user", "content": f"question {number}"}] for number in range(300)]
    table = pa.table({"messages": messages, "verdict": ["right", "wrong"] * 150, "id": list(range(300))})
    stored = store.put_table(table)
    with pq.ParquetFile(store.open(stored.sha256)) as file:
        group = file.metadata.row_group(0)
        found = [group.column(place) for place in range(group.num_columns)]
    assert {column.path_in_schema for column in found if column.has_dictionary_page} == {
        "messages.list.element.role",
        "verdict",
    }
    assert store.read_table(stored.sha256) == table


def test_columns_of_every_arrow_type_are_stored(store: ObjectStore) -> None:
    scores = pa.array([[("a", 1)], None] * 2, pa.map_(pa.string(), pa.int64()))
    pairs = pa.array([[1, 2]] * 4, pa.list_(pa.int64(), 2))
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16] * 4, pa.binary(16)))
    table = pa.table({"scores": scores, "pairs": pairs, "deep": pa.StructArray.from_arrays([scores], ["scores"]), "ids": ids})
    assert repeating(table) == ["ids"]
    stored = store.read_table(store.put_table(table).sha256)
    assert [stored[name].to_pylist() for name in table.column_names] == [table[name].to_pylist() for name in table.column_names]


def test_storing_a_damaged_object_again_repairs_it(store: ObjectStore) -> None:
    stored = store.put_bytes(b"precious")
    store.path(stored.sha256).write_bytes(b"precioux")
    store.put_bytes(b"precious")
    assert store.path(stored.sha256).read_bytes() == b"precious"


def test_a_missing_object_is_an_error_that_names_it(store: ObjectStore) -> None:
    for read in (store.read_table, store.read_bytes, store.open, store.verify):
        with pytest.raises(CorruptError, match=f"object {'f' * 64} is missing from {store.root}"):
            read("f" * 64)


def test_bytes_that_are_not_parquet_are_an_error_of_the_registry(store: ObjectStore) -> None:
    with pytest.raises(CorruptError, match="is not readable as Parquet"):
        store.read_table(store.put_bytes(b"no rows").sha256)


# -- age and leftovers, by which garbage is recognised ---------------------------------------------------------------


def test_storing_an_object_again_touches_it(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"precious")
    for put in (lambda: store.put_bytes(b"precious"), lambda: store.put_file(tmp_path / "f")):
        sha256 = put().sha256
        os.utime(store.path(sha256), (1000, 1000))
        put()
        [listed] = store.listing()
        assert (listed.sha256, listed.bytes) == (sha256, 8)
        assert listed.modified > 1_600_000_000


def test_an_object_that_is_removed_while_it_is_touched_is_written(tmp_path: Path) -> None:
    class Collected(LocalFiles):
        """Garbage is collected right after a file was touched."""

        def touch(self, name: str) -> bool:
            there = super().touch(name)
            self.remove(name)
            return there

    store = ObjectStore(Collected(tmp_path))
    for _ in range(2):
        assert store.read_bytes(store.put_bytes(b"precious").sha256) == b"precious"


def test_files_of_a_crash_are_listed_and_can_be_removed(store: ObjectStore) -> None:
    sha256 = store.put_bytes(b"precious").sha256
    (store.root / sha256[:2] / f".{sha256[:40]}.0.tmp").write_bytes(b"prec")
    (store.root / "00").mkdir()
    (store.root / "00" / sha256).write_bytes(b"precious")  # an object's name, but not its place
    found = {listed.name: listed for listed in store.listing()}
    assert {name: listed.sha256 for name, listed in found.items()} == {
        f"{sha256[:2]}/{sha256}": sha256,
        f"{sha256[:2]}/.{sha256[:40]}.0.tmp": None,
        f"00/{sha256}": None,
    }
    for listed in found.values():
        if listed.sha256 is None:
            store.remove(listed.name)
    assert [listed.sha256 for listed in store.listing()] == [sha256]


# -- JSON documents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", range(0, 90, 7))
def test_a_flipped_byte_in_a_json_document_is_an_error(tmp_path: Path, position: int) -> None:
    path = tmp_path / "doc.json"
    write_checked_json(path, {"rows": 12, "name": "a/b"})
    good = path.read_bytes()
    path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
    with pytest.raises(CorruptError, match="damaged"):
        read_checked_json(path)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "doc.json"
    write_checked_json(path, 1)
    with pytest.raises(ValueError, match="Out of range"):
        write_checked_json(path, float("nan"))
    assert read_checked_json(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def _flipped(path: Path, most: int) -> Iterator[int]:
    """The file with one bit flipped, at so many positions spread over all of it, also footer and headers; then restored."""
    good = path.read_bytes()
    for position in range(0, len(good), max(1, len(good) // most)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        yield position
    path.write_bytes(good)


def test_a_table_that_was_just_read_is_kept(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [pa.table({"x": [number] * 1000}) for number in range(3)]
    names = [store.put_table(table).sha256 for table in tables]
    monkeypatch.setattr("registry.storage.objects._RECENT_BYTES", tables[0].nbytes * 5 // 2)
    first, second = (store.read_recent(name) for name in names[:2])
    assert store.read_recent(names[0]) is first
    assert store.read_recent(names[2]).equals(tables[2])
    assert store.read_recent(names[0]) is first
    assert store.read_recent(names[1]) is not second
    assert store.read_recent(names[1]).equals(second)
