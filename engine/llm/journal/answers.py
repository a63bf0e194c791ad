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
import hashlib
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from filelock import FileLock

from engine.errors import EngineError
from engine.llm.journal.disk_reserve import Reserve
from engine.llm.types.finish_reason import USABLE, USABLE_AS, ending
from engine.llm.types.requests import Completion, RequestError

_SCHEMA = """
create table if not exists answers (
    key text primary key, answer text not null, checksum text not null
);
create index if not exists answers_by_end on answers (substr(key, 33));
create table if not exists notes (
    name text primary key, value text not null, checksum text
) without rowid;
"""
_FIND = "select answer, checksum from answers where key = ?"
_FIND_BY_END = """
select answer, checksum from answers indexed by answers_by_end where substr(key, 33) = substr(?1, 33) and key = ?1
"""
"""A flipped byte in an index hides an entry without an error. Before an answer is paid for again, another index is asked."""
_COLUMNS = """
select t.name, c.name, c.type, c."notnull", c.pk from sqlite_master t, pragma_table_info(t.name) c
where t.name in ('answers', 'notes')
"""
_WAL_MODE = b"\2\2"
"""Bytes 18 and 19 of SQLite's file."""
_BATCH = 512
_BUSY_SECONDS = 60.0
_HOLD_SECONDS, _LOOK_SECONDS = 120.0, 0.5
"""For so long answers wait for room on a full disk, when not even the reserve is enough; the pause between two tries."""
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_NOT_DAMAGED = {
    *_NO_ROOM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
"""Errors that tell of the disk or of other processes, and nothing of what is in the file."""


class DamagedJournalError(EngineError):
    """An entry does not match its checksum."""


def as_kept(completion: Completion) -> str:
    """An answer as it is kept.

    Raises:
        RequestError: it would not read back as it is; kept, it would fail every run that finds it.
    """
    try:
        text = completion.model_dump_json(exclude_defaults=True)
        if Completion.model_validate_json(text) == completion:
            return text
        said = "it would read back as another"
    except ValueError as error:
        said = str(error).partition("\n")[0]
    nothing = Completion(text="", finish_reason="unknown", tokens_in=completion.tokens_in, tokens_out=completion.tokens_out)
    raise RequestError(f"the answer cannot be kept: {said}", nothing)


def as_answer(text: str | None) -> Completion | None:
    """What is kept, as an answer; None when it is not one that can be used, as older versions may have left it."""
    try:
        answer = None if text is None else Completion.model_validate_json(text)
    except ValueError:
        return None
    if answer is None or answer.finish_reason in USABLE:
        return answer
    usable = USABLE_AS.get(ending(answer.finish_reason))
    return answer.model_copy(update={"finish_reason": usable}) if usable else None


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
        """Keep an answer; returns, when it is durable, the answer that is kept. Raises RequestError: see as_kept.

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


class Entry(NamedTuple):
    """A write: an answer, or a note. `value` None deletes."""

    table: str
    key: str
    value: str | None
    replace: bool = True


class _Write(NamedTuple):
    entry: Entry
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[str | None]


class Journal:
    """The journal's file, `folder/answers.sqlite`. See Answers; close when done."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "answers.sqlite"
        try:
            with FileLock(folder / "answers.lock"):  # SQLite does not wait when several processes make a file
                self._reader = _connect(self.file)
                self._reader.executescript(_SCHEMA)
                if ("checksum",) not in self._reader.execute("select name from pragma_table_info('notes')").fetchall():
                    self._reader.execute("alter table notes add column checksum text")
        except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's words may have damaged ones in them
            advice = "`engine fsck --deep` says what to do"
            if _primary_code(error) in _NO_ROOM:
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
        answer = as_answer(found)
        if answer is None and found is not None:
            self.unreadable.add(key)
        return answer

    async def put(self, key: str, completion: Completion, *, replace: bool = False) -> Completion:
        """See Answers."""
        text = as_kept(completion)
        kept = await self.write(Entry("answers", key, text, replace))
        return completion if kept == text else as_answer(kept) or completion

    async def note(self, name: str, value: str | None) -> None:
        """See Answers."""
        await self.write(Entry("notes", name, value))

    async def notes(self, prefix: str) -> dict[str, str]:
        """See Answers."""
        query = "select name, value, checksum from notes where name >= ? and name < ?"
        try:
            rows = self._reader.execute(query, (prefix, prefix + "\uffff")).fetchall()
        except sqlite3.Error as error:
            raise EngineError(f"cannot read the journal {self.file}: {error}") from error
        for name, value, checksum in rows:
            if checksum not in (None, _checksum(name, value)):  # None: of a version that kept none
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
            if _checksum(key, answer) != checksum:
                raise DamagedJournalError(
                    f"the journal {self.file} is damaged at entry {key}; delete that entry to ask the model again: "
                    f"sqlite3 {self.file} \"delete from answers where key = '{key}'\""
                )
            found[key] = answer
        return found

    async def write(self, entry: Entry) -> str | None:
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
        connection = _connect(self.file)
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
                if _primary_code(error) in _NO_ROOM:
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


class Damage(NamedTuple):
    """What is wrong with a journal's file, and what to do about it."""

    what: str
    advice: str


def damages(file: Path, *, deep: bool) -> Iterator[Damage]:
    """Look at a journal's file without changing it, whoever uses it; `deep` reads all of it."""
    save = f"save what can be: sqlite3 {file} .recover | sqlite3 FRESH, and put FRESH in its place; what is lost is asked again"
    with file.open("rb") as header:
        if header.read(20)[18:] != _WAL_MODE:
            yield Damage("is damaged: it is not in WAL mode", save)
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
    connection.text_factory = lambda data: data.decode(errors="replace")
    expected = sqlite3.connect(":memory:")
    expected.executescript(_SCHEMA)
    try:
        columns = set(connection.execute(_COLUMNS))
        if unknown := columns - set(expected.execute(_COLUMNS)):
            yield Damage(f"is damaged: it has columns that a journal does not have, such as {sorted(unknown)[0]}", save)
        if not deep:
            return
        for (told,) in connection.execute("pragma integrity_check(3)"):
            if told != "ok":
                yield Damage(f"is damaged: {told}", save)
        for place, key, answer, checksum in connection.execute("select rowid, key, answer, checksum from answers"):
            if _checksum(key, answer) != checksum:
                delete = f'sqlite3 {file} "delete from answers where rowid = {place}"'
                yield Damage(f"is damaged at entry {key}", f"delete the entry to ask the model again: {delete}")
        kept = "select name, value, checksum from notes where checksum is not null"
        has_checksums = any(column[:2] == ("notes", "checksum") for column in columns)
        for name, value, checksum in connection.execute(kept) if has_checksums else ():
            if _checksum(name, value) != checksum:
                delete = f"sqlite3 {file} \"delete from notes where name = '{name}'\""
                yield Damage(f"is damaged at note {name}", f"delete the note: {delete}")
    except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's words may have damaged ones in them
        if _primary_code(error) in _NOT_DAMAGED:
            yield Damage(
                f"cannot be checked: {error}", "make sure that the disk has room and the file can be read, and check again"
            )
        else:
            yield Damage(f"is damaged: {error}", save)
    finally:
        connection.close()
        expected.close()


def _primary_code(error: Exception) -> int:
    """SQLite's result code without its extension; 0 for an error that is not SQLite's."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _tell(results: list[tuple[asyncio.Future[str | None], str | Exception | None]]) -> None:
    for done, result in results:
        if done.done():
            continue
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)


def _store(connection: sqlite3.Connection, entry: Entry) -> str | None:
    if entry.table == "notes":
        if entry.value is None:
            connection.execute("delete from notes where name = ?", (entry.key,))
        else:
            values = (entry.key, entry.value, _checksum(entry.key, entry.value))
            connection.execute("insert or replace into notes values (?, ?, ?)", values)
        return entry.value
    assert entry.value is not None
    values = (entry.key, entry.value, _checksum(entry.key, entry.value))
    how = "replace" if entry.replace else "ignore"
    if connection.execute(f"insert or {how} into answers values (?, ?, ?)", values).rowcount:
        return entry.value
    kept = str(connection.execute("select answer from answers where key = ?", (entry.key,)).fetchone()[0])
    if as_answer(kept) is not None:
        return kept
    connection.execute("replace into answers values (?, ?, ?)", values)
    return entry.value


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_BUSY_SECONDS, check_same_thread=False)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    return connection


def _checksum(key: str, answer: str) -> str:
    return hashlib.blake2b(f"{key}\n{answer}".encode(), digest_size=16).hexdigest()
