"""Looks for damage in a journal's file without changing it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from engine.llm.journal.sqlite_file import BUSY_SECONDS, NO_ROOM, SCHEMA, entry_checksum, primary_code

_COLUMNS = """
select t.name, c.name, c.type, c."notnull", c.pk from sqlite_master t, pragma_table_info(t.name) c
where t.name in ('answers', 'notes')
"""
_WAL_MODE = b"\2\2"
"""Bytes 18 and 19 of SQLite's file."""
_NOT_DAMAGED = {
    *NO_ROOM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
"""Errors that concern the disk or other processes, not the content of the file."""


class Damage(NamedTuple):
    """Damage to a journal's file, and what to do about it."""

    what: str
    advice: str


def damages(file: Path, *, deep: bool) -> Iterator[Damage]:
    """Check a journal's file without changing it, even while it is in use; `deep` reads all of it."""
    save = (
        f"recover what is readable: sqlite3 {file} .recover | sqlite3 FRESH, and replace the file with FRESH; lost answers are "
        "requested again"
    )
    with file.open("rb") as header:
        if header.read(20)[18:] != _WAL_MODE:
            yield Damage("is damaged: it is not in WAL mode", save)
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    connection.text_factory = lambda data: data.decode(errors="replace")
    expected = sqlite3.connect(":memory:")
    expected.executescript(SCHEMA)
    try:
        columns = set(connection.execute(_COLUMNS))
        if unknown := columns - set(expected.execute(_COLUMNS)):
            yield Damage(f"is damaged: it has columns that do not belong in a journal, for example {sorted(unknown)[0]}", save)
        if not deep:
            return
        for (finding,) in connection.execute("pragma integrity_check(3)"):
            if finding != "ok":
                yield Damage(f"is damaged: {finding}", save)
        for place, key, answer, checksum in connection.execute("select rowid, key, answer, checksum from answers"):
            if entry_checksum(key, answer) != checksum:
                delete = f'sqlite3 {file} "delete from answers where rowid = {place}"'
                yield Damage(f"is damaged at entry {key}", f"delete the entry to ask the model again: {delete}")
        kept = "select name, value, checksum from notes where checksum is not null"
        has_checksums = any(column[:2] == ("notes", "checksum") for column in columns)
        for name, value, checksum in connection.execute(kept) if has_checksums else ():
            if entry_checksum(name, value) != checksum:
                delete = f"sqlite3 {file} \"delete from notes where name = '{name}'\""
                yield Damage(f"is damaged at note {name}", f"delete the note: {delete}")
    except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's messages may quote damaged text
        if primary_code(error) in _NOT_DAMAGED:
            yield Damage(
                f"cannot be checked: {error}", "make sure that the disk has room and the file is readable, then check again"
            )
        else:
            yield Damage(f"is damaged: {error}", save)
    finally:
        connection.close()
        expected.close()
