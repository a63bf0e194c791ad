"""The object store gives back what was written, or an error."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from registry import CorruptError, ObjectStore
from registry.store import read_checked_json, write_checked_json


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def test_the_same_bytes_are_stored_once(store: ObjectStore) -> None:
    assert store.put_bytes(b"x" * 1000) == store.put_bytes(b"x" * 1000)
    assert len([path for path in store.root.rglob("*") if path.is_file()]) == 1


def test_a_file_and_its_bytes_are_the_same_object(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 999)
    assert store.put_file(tmp_path / "f") == store.put_bytes(b"abc" * 999)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a" * 63, "A" * 64, "", "/" + "a" * 63])
def test_only_a_hash_is_a_name(store: ObjectStore, name: str) -> None:
    with pytest.raises(ValueError, match="not an object name"):
        store.path(name)


def test_a_flipped_byte_is_an_error_and_never_other_rows(store: ObjectStore) -> None:
    table = pa.table({"n": list(range(2000)), "s": [f"row {i}" for i in range(2000)]})
    stored = store.put_table(table)
    path = store.path(stored.sha256)
    good = path.read_bytes()
    wrong = []
    for position in range(0, len(good), max(1, len(good) // 60)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        try:
            if not store.read_table(stored.sha256).equals(table):
                wrong.append(position)
        except CorruptError:
            continue
    assert wrong == []


def test_storing_a_damaged_object_again_heals_it(store: ObjectStore) -> None:
    stored = store.put_bytes(b"precious")
    store.path(stored.sha256).write_bytes(b"precioux")
    store.put_bytes(b"precious")
    assert store.path(stored.sha256).read_bytes() == b"precious"


def test_a_missing_object_is_an_error_that_names_it(store: ObjectStore) -> None:
    with pytest.raises(CorruptError, match="f" * 64):
        store.read_table("f" * 64)


@pytest.mark.parametrize("position", range(0, 90, 7))
def test_a_flipped_byte_in_a_json_document_is_an_error(tmp_path: Path, position: int) -> None:
    path = tmp_path / "doc.json"
    write_checked_json(path, {"rows": 12, "name": "a/b"})
    good = path.read_bytes()
    path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
    with pytest.raises(CorruptError, match="damaged"):
        read_checked_json(path)


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "doc.json"
    write_checked_json(path, 1)
    with pytest.raises(ValueError, match="Out of range"):
        write_checked_json(path, float("nan"))
    assert read_checked_json(path) == 1
    assert list(tmp_path.iterdir()) == [path]
