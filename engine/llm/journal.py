"""The journal: every answer that was paid for, durable before it is used, shared by all processes of a machine.

SQLite in WAL mode: writers of several processes take turns by its own locking, a reader is never blocked, an entry is
found by its key without reading the others, and a transaction survives `kill -9` and power cuts. Answers that arrive
together are committed together, by a thread, so that one fsync serves many. Each entry carries a checksum of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import sqlite3
import threading
from concurrent.futures import Future
from pathlib import Path

from filelock import FileLock

from engine.llm.base import Completion

_SCHEMA = """
create table if not exists answers (
    key text primary key, answer text not null, checksum text not null
) without rowid
"""
_BATCH = 512
_BUSY_SECONDS = 60.0


class DamagedJournalError(RuntimeError):
    """An entry does not match its checksum."""


class Journal:
    """Answers by request key, in `folder/answers.sqlite`. Use from one event loop; close when done."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "answers.sqlite"
        with FileLock(folder / "answers.lock"):  # SQLite does not wait when several processes make a file
            self._reader = _connect(self.file)
            self._reader.execute(_SCHEMA)
        self._queue: queue.SimpleQueue[tuple[str, str, Future[str]] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    def get(self, key: str) -> Completion | None:
        """The answer to a request, if it was ever given; raises DamagedJournalError when it does not check."""
        found = self._reader.execute("select answer, checksum from answers where key = ?", (key,)).fetchone()
        if found is None:
            return None
        answer, checksum = found
        if _checksum(key, answer) != checksum:
            raise DamagedJournalError(
                f"the journal {self.file} is damaged at entry {key}; "
                f"delete that entry to ask the model again: sqlite3 {self.file} \"delete from answers where key = '{key}'\""
            )
        return Completion.model_validate_json(answer)

    async def put(self, key: str, completion: Completion) -> Completion:
        """Keep an answer; returns, when it is durable, the answer that is kept.

        That is another one when somebody else asked the same at the same time and was first: all use the same.
        """
        done: Future[str] = Future()
        self._queue.put((key, completion.model_dump_json(), done))
        kept = await asyncio.wrap_future(done)
        return Completion.model_validate_json(kept)

    def count(self) -> int:
        """Number of answers."""
        return int(self._reader.execute("select count(*) from answers").fetchone()[0])

    def close(self) -> None:
        """Finish writing and let the file go."""
        self._queue.put(None)
        self._writer.join()
        self._reader.close()

    def _write(self) -> None:
        connection = _connect(self.file)
        ending = False
        while not ending:
            batch = [self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            ending = None in batch
            entries = [entry for entry in batch if entry is not None]
            try:
                with connection:
                    kept = [_insert(connection, key, answer) for key, answer, _ in entries]
            except sqlite3.Error as error:
                for _, _, done in entries:
                    done.set_exception(error)
            else:
                for (_, _, done), answer in zip(entries, kept, strict=True):
                    done.set_result(answer)
        connection.close()


def _insert(connection: sqlite3.Connection, key: str, answer: str) -> str:
    """Insert an answer unless there is one; returns the one that is there."""
    values = (key, answer, _checksum(key, answer))
    if connection.execute("insert or ignore into answers values (?, ?, ?)", values).rowcount:
        return answer
    return str(connection.execute("select answer from answers where key = ?", (key,)).fetchone()[0])


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_BUSY_SECONDS, check_same_thread=False)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    return connection


def _checksum(key: str, answer: str) -> str:
    return hashlib.blake2b(f"{key}\n{answer}".encode(), digest_size=16).hexdigest()
