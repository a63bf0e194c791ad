"""The SQLite file of the journal: its tables, its checksums, how it is opened."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

SCHEMA = """
create table if not exists answers (
    key text primary key, answer text not null, checksum text not null
);
create index if not exists answers_by_end on answers (substr(key, 33));
create table if not exists notes (
    name text primary key, value text not null, checksum text
) without rowid;
"""
BUSY_SECONDS = 60.0
"""How long a connection waits for the locks of others."""
NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def connect(file: Path) -> sqlite3.Connection:
    """A connection whose commits are durable, and which any thread may use."""
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, check_same_thread=False)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    return connection


def entry_checksum(key: str, answer: str) -> str:
    """The checksum that is stored with an answer or a note."""
    return hashlib.blake2b(f"{key}\n{answer}".encode(), digest_size=16).hexdigest()


def primary_code(error: Exception) -> int:
    """SQLite's result code without its extension; 0 for other errors."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
