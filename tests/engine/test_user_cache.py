"""Entries of the user's cache. `tests/engine/fingerprint/test_parts.py` has those of damaged ones and of foreign folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.user_cache import Entries


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entries:
    """Small entries, in an empty cache."""
    monkeypatch.setenv("ENGINE_CACHE", str(tmp_path))
    return Entries("notes", most=4, largest=100)


def test_an_entry_is_read_for_what_it_follows_from(entries: Entries, tmp_path: Path) -> None:
    entries.write("a", b"question", b"answer\n with lines")
    assert entries.read("a", b"question") == b"answer\n with lines"
    assert entries.read("a", b"questio") is None
    assert entries.read("b", b"question") is None
    entries.write("a", b"question", b"")
    assert entries.read("a", b"question") == b""
    # Moving a byte from one part to the other makes another entry.
    entries.write("a", b"quest", b"ion")
    assert entries.read("a", b"questi") is None
    assert (tmp_path / "notes" / "a").stat().st_mode & 0o777 == 0o600


def test_entries_have_a_greatest_size(entries: Entries, tmp_path: Path) -> None:
    fits = bytes(100 - 64 - 1)
    entries.write("a", b"", fits)
    entries.write("b", b"", fits + b"x")
    assert entries.read("a", b"") == fits
    assert os.listdir(tmp_path / "notes") == ["a"]
    (tmp_path / "notes" / "a").write_bytes((tmp_path / "notes" / "a").read_bytes() + b"x")
    assert entries.read("a", b"") is None


def test_the_newest_entries_stay(entries: Entries, tmp_path: Path) -> None:
    for number in range(5):
        entries.write(str(number), b"", b"")
        os.utime(tmp_path / "notes" / str(number), (number, number))
    assert sorted(os.listdir(tmp_path / "notes")) == ["2", "3", "4"]


def test_a_pipe_in_place_of_an_entry_blocks_nothing(entries: Entries, tmp_path: Path) -> None:
    entries.write("a", b"", b"")
    (tmp_path / "notes" / "a").unlink()
    os.mkfifo(tmp_path / "notes" / "a")
    assert entries.read("a", b"") is None
