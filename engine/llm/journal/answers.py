"""The journal: every answer that was paid for, durable before it is used, shared by all processes of a machine.

SQLite in WAL mode: writers of several processes take turns by its own locking, a reader is never blocked, an entry is
found by its key without reading the others, and a transaction survives `kill -9` and power cuts. Answers that arrive
together are committed together, by a thread, so that one fsync serves many. Each entry carries a checksum of its own.

Workers on other machines reach it through `engine.llm.shared_service`, because SQLite's locks do not hold on network file
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
from engine.llm.journal.disk_reserve import Reserve
from engine.llm.journal.serialization import decode_answer, encode_answer
from engine.llm.journal.sqlite_file import NO_ROOM, SCHEMA, connect, entry_checksum, primary_code
from engine.llm.types.completions import Completion

_FIND = "select answer, checksum from answers where key = ?"
_FIND_BY_END = """
select answer, checksum from answers indexed by answers_by_end where substr(key, 33) = substr(?1, 33) and key = ?1
"""
"""A flipped byte in an index hides an entry without an error. Before an answer is paid for again, another index is asked."""
_BATCH = 512
_HOLD_SECONDS, _LOOK_SECONDS = 120.0, 0.5
"""For so long answers wait for room on a full disk, when not even the reserve is enough; the pause between two tries."""


class DamagedJournalError(EngineError):
    """An entry does not match its checksum."""


class Answers(Protocol):
    """Where answers are kept; the Journal, or the way to one on another machine.

    Attributes:
        unreadable: keys of entries that were found and are not answers: they count as not there.
    """

    unreadable: set[str]

    async def get(self, key: str) -> Completion | None:
        """The answer to a request, if it was ever given; raises DamagedJournalError when it does not check."""
        ...

    async def put(self, key: str, completion: Completion, *, replace: bool = False) -> Completion:
        """Keep an answer; returns, when it is durable, the answer that is kept. Raises RequestError: see encode_answer.

        That is another one when somebody else asked the same at the same time and was first: all use the same. With
        `replace` the new one takes the place of the old.
        """
        ...

    async def note(self, name: str, value: str | None) -> None:
        """Keep (None: forget) a small fact beside the answers, durably: a batch that is out, what a server can do."""
        ...

    async def notes(self, prefix: str) -> dict[str, str]:
        """The facts whose names begin so."""
        ...

    async def room(self) -> None:
        """Make sure that answers can be kept before they are paid for.

        Raises:
            EngineError: the disk is full.
        """
        ...


class JournalEntry(NamedTuple):
    """A write: an answer, or a note. `value` None deletes."""

    table: str
    key: str
    value: str | None
    replace: bool = True


class _Write(NamedTuple):
    entry: JournalEntry
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[str | None]


class Journal:
    """The journal's file, `folder/answers.sqlite`. See Answers; close when done."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "answers.sqlite"
        try:
            with FileLock(folder / "answers.lock"):  # SQLite does not wait when several processes make a file
                self._reader = connect(self.file)
                self._reader.executescript(SCHEMA)
                if ("checksum",) not in self._reader.execute("select name from pragma_table_info('notes')").fetchall():
                    self._reader.execute("alter table notes add column checksum text")
        except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's words may have damaged ones in them
            advice = "`engine fsck --deep` says what to do"
            if primary_code(error) in NO_ROOM:
                advice = f"is there room left on that disk? If so, {advice}"
            raise EngineError(f"cannot open the journal {self.file}: {error}; {advice}") from error
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._reserve = Reserve(folder)
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
            if checksum not in (None, entry_checksum(name, value)):  # None: of a version that kept none
                delete = f"sqlite3 {self.file} \"delete from notes where name = '{name}'\""
                raise DamagedJournalError(f"the journal {self.file} is damaged at note {name}; delete that note: {delete}")
        return {name: value for name, value, _ in rows}

    def find(self, keys: Iterable[str]) -> Mapping[str, str]:
        """The answers to some keys, as they are stored; raises DamagedJournalError when one does not check."""
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
                    f"the journal {self.file} is damaged at entry {key}; delete that entry to ask the model again: "
                    f"sqlite3 {self.file} \"delete from answers where key = '{key}'\""
                )
            found[key] = answer
        return found

    async def write(self, entry: JournalEntry) -> str | None:
        """Write an entry; returns, when it is durable, the value that is kept."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str | None] = loop.create_future()
        self._queue.put(_Write(entry, loop, done))
        return await done

    async def room(self) -> None:
        """See Answers."""
        if not self._reserve.take():
            raise EngineError(f"there is no room left for answers in {self.file.parent}: make room on that disk and run again")

    def count(self) -> int:
        """Number of answers."""
        return int(self._reader.execute("select count(*) from answers").fetchone()[0])

    def close(self) -> None:
        """Finish writing and let the file go."""
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
        """Write entries in one transaction and tell those who wait, each event loop once.

        On a full disk the reserve is given up for them: no further request is sent then (see `room`), and those in flight
        find room. What does not fit is held for a while.
        """
        results: list[str | None] | Exception
        until = time.monotonic() + _HOLD_SECONDS
        while True:
            try:
                with connection:
                    results = [_store(connection, write.entry) for write in writes]
            except Exception as error:  # whatever it is: those who wait must hear of it, and the thread must live
                if primary_code(error) in NO_ROOM:
                    if self._reserve.release():
                        continue
                    if time.monotonic() < until and not self._ending.wait(_LOOK_SECONDS):
                        continue
                results = EngineError(f"cannot write the journal: {type(error).__name__}: {error}")
            break
        told: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[str | None], str | Exception | None]]] = defaultdict(
            list
        )
        for place, write in enumerate(writes):
            told[write.loop].append((write.done, results if isinstance(results, Exception) else results[place]))
        for loop, results_of_loop in told.items():
            with contextlib.suppress(RuntimeError):  # its event loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, results_of_loop)


def _tell(results: list[tuple[asyncio.Future[str | None], str | Exception | None]]) -> None:
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
