"""The journal: every answer that was paid for, durable before it is used, shared by all processes of a machine.

SQLite in WAL mode: its locks serialize the writers of several processes, readers are never blocked, an entry is found by
its key without reading the others, and a transaction survives `kill -9` and power cuts. A thread commits answers that
arrive together in one transaction, so that one fsync serves many. Each entry has its own checksum.

Workers on other machines reach it through `engine.llm.shared_service`, because SQLite's locks do not work on network file
systems. `benchmarks/journal.py` measures it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from filelock import FileLock

from engine.errors import EngineError
from engine.llm.journal.disk_reserve import DiskReserve
from engine.llm.journal.serialization import decode_answer, encode_answer
from engine.llm.journal.sqlite_file import NO_ROOM, SCHEMA, connect, entry_checksum, primary_code
from engine.llm.types.completions import Completion

_FIND = "select answer, checksum from answers where key = ?"
_FIND_BY_END = """
select answer, checksum from answers indexed by answers_by_end where substr(key, 33) = substr(?1, 33) and +key = ?1
"""
"""A flipped byte in an index hides an entry without an error. So a second index is searched before paying again. With the `+`,
SQLite does not put the key into `substr(key, 33)`, which would make it read the whole index."""
_BATCH = 512
_HOLD_SECONDS, _LOOK_SECONDS = 120.0, 0.5
"""How long answers wait for space on a full disk if even the reserve is not enough, and the pause between two attempts."""


class DamagedJournalError(EngineError):
    """An entry does not match its checksum."""


class Answers(Protocol):
    """A store of answers: the Journal, or a connection to one on another machine.

    Attributes:
        unreadable: keys of entries that were found but are not usable answers: they count as missing.
    """

    unreadable: set[str]

    async def get(self, key: str) -> Completion | None:
        """The answer to a request, if there is one; raises DamagedJournalError if its checksum is wrong."""
        ...

    async def put(self, key: str, completion: Completion, *, replace: bool = False) -> Completion:
        """Store an answer. Returns the stored answer once it is durable. Raises RequestError: see encode_answer.

        If another worker stored an answer to the same request first, that one is returned, so that all use the same. With
        `replace`, the new answer replaces the old one.
        """
        ...

    async def note(self, name: str, value: str | None) -> None:
        """Store a small fact next to the answers, durably (None: delete it): an open batch, a server's capabilities."""
        ...

    async def notes(self, prefix: str) -> dict[str, str]:
        """The facts whose names begin with a prefix."""
        ...

    async def ensure_room(self) -> None:
        """Check that answers can be stored before they are paid for.

        Raises:
            EngineError: the disk is full.
        """
        ...


class JournalEntry(NamedTuple):
    """A write of an answer or a note. `value` None deletes."""

    table: str
    key: str
    value: str | None
    replace: bool = True


class _Write(NamedTuple):
    entry: JournalEntry
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[str | None]


class Journal:
    """The journal's file, `folder/answers.sqlite`. See Answers. Close it when done."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "answers.sqlite"
        try:
            with FileLock(folder / "answers.lock"):  # SQLite does not wait when several processes create a file
                self._reader = connect(self.file)
                self._reader.executescript(SCHEMA)
                if ("checksum",) not in self._reader.execute("select name from pragma_table_info('notes')").fetchall():
                    self._reader.execute("alter table notes add column checksum text")
        except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's messages may quote damaged text
            advice = "`engine fsck --deep` says what to do"
            if primary_code(error) in NO_ROOM:
                advice = f"check that the disk has free space; if it has, {advice}"
            raise EngineError(f"cannot open the journal {self.file}: {error}; {advice}") from error
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._reserve = DiskReserve(folder)
        self._ending = threading.Event()
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()
        self.unreadable: set[str] = set()

    async def get(self, key: str) -> Completion | None:
        """See Answers."""
        found = self.find([key]).get(key)
        answer = decode_answer(found)
        if answer is None and found is not None:
            self.unreadable.add(key)
        return answer

    async def put(self, key: str, completion: Completion, *, replace: bool = False) -> Completion:
        """See Answers."""
        text = encode_answer(completion)
        kept = await self.write(JournalEntry("answers", key, text, replace))
        return completion if kept == text else decode_answer(kept) or completion

    async def note(self, name: str, value: str | None) -> None:
        """See Answers."""
        await self.write(JournalEntry("notes", name, value))

    async def notes(self, prefix: str) -> dict[str, str]:
        """See Answers."""
        query = "select name, value, checksum from notes where name >= ? and name < ?"
        try:
            rows = self._reader.execute(query, (prefix, prefix + "\uffff")).fetchall()
        except sqlite3.Error as error:
            raise EngineError(f"cannot read the journal {self.file}: {error}") from error
        for name, value, checksum in rows:
            if checksum not in (None, entry_checksum(name, value)):  # None: an engine before checksums wrote it
                delete = f"sqlite3 {self.file} \"delete from notes where name = '{name}'\""
                raise DamagedJournalError(f"the journal {self.file} is damaged at note {name}; delete the note: {delete}")
        return {name: value for name, value, _ in rows}

    def find(self, keys: Iterable[str]) -> Mapping[str, str]:
        """The stored texts of some answers, by key; raises DamagedJournalError if a checksum is wrong."""
        found = {}
        for key in keys:
            try:
                row = self._reader.execute(_FIND, (key,)).fetchone() or self._reader.execute(_FIND_BY_END, (key,)).fetchone()
            except sqlite3.Error as error:
                raise EngineError(f"cannot read the journal {self.file}: {error}") from error
            if row is None:
                continue
            answer, checksum = row
            if entry_checksum(key, answer) != checksum:
                raise DamagedJournalError(
                    f"the journal {self.file} is damaged at entry {key}; delete the entry to ask the model again: "
                    f"sqlite3 {self.file} \"delete from answers where key = '{key}'\""
                )
            found[key] = answer
        return found

    async def write(self, entry: JournalEntry) -> str | None:
        """Write an entry. Returns the stored value once it is durable."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str | None] = loop.create_future()
        self._queue.put(_Write(entry, loop, done))
        return await done

    async def ensure_room(self) -> None:
        """See Answers."""
        if not self._reserve.take():
            where = f"no room left for answers in {self.file.parent}"
            raise EngineError(f"{where}: {self._reserve.lacking}. Free space on that disk and run again")

    def count(self) -> int:
        """Number of answers."""
        return int(self._reader.execute("select count(*) from answers").fetchone()[0])

    def close(self) -> None:
        """Finish writing and close the file."""
        self._ending.set()
        self._queue.put(None)
        self._writer.join()
        self._reader.close()
        self._reserve.release()

    def _write(self) -> None:
        connection = connect(self.file)
        ending = False
        while not ending:
            batch = [self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            ending = None in batch
            self._commit(connection, [write for write in batch if write is not None])
        connection.close()

    def _commit(self, connection: sqlite3.Connection, writes: list[_Write]) -> None:
        """Write entries in one transaction and wake their writers, each event loop once.

        On a full disk, the entries use the reserve: then no further request is sent (see `ensure_room`), and the answers to
        those in flight fit. Entries that still do not fit wait for a while.
        """
        results: list[str | None] | Exception
        until = time.monotonic() + _HOLD_SECONDS
        while True:
            try:
                with connection:
                    results = [_store(connection, write.entry) for write in writes]
            except Exception as error:  # any error must reach the writers, and the thread must survive it
                if primary_code(error) in NO_ROOM:
                    if self._reserve.release():
                        continue
                    if time.monotonic() < until and not self._ending.wait(_LOOK_SECONDS):
                        continue
                results = EngineError(f"cannot write the journal: {type(error).__name__}: {error}")
            break
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[str | None], str | Exception | None]]] = defaultdict(
            list
        )
        for place, write in enumerate(writes):
            by_loop[write.loop].append((write.done, results if isinstance(results, Exception) else results[place]))
        for loop, results_of_loop in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nothing waits any longer
                loop.call_soon_threadsafe(_resolve, results_of_loop)


def _resolve(results: list[tuple[asyncio.Future[str | None], str | Exception | None]]) -> None:
    for done, result in results:
        if done.done():
            continue
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)


def _store(connection: sqlite3.Connection, entry: JournalEntry) -> str | None:
    if entry.table == "notes":
        if entry.value is None:
            connection.execute("delete from notes where name = ?", (entry.key,))
        else:
            values = (entry.key, entry.value, entry_checksum(entry.key, entry.value))
            connection.execute("insert or replace into notes values (?, ?, ?)", values)
        return entry.value
    assert entry.value is not None
    values = (entry.key, entry.value, entry_checksum(entry.key, entry.value))
    how = "replace" if entry.replace else "ignore"
    if connection.execute(f"insert or {how} into answers values (?, ?, ?)", values).rowcount:
        return entry.value
    kept = str(connection.execute("select answer from answers where key = ?", (entry.key,)).fetchone()[0])
    if decode_answer(kept) is not None:
        return kept
    connection.execute("replace into answers values (?, ?, ?)", values)
    return entry.value
