"""The object store: immutable files named by their SHA-256. Objects are verified completely before they are read."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from registry.errors import CorruptError, MissingError
from registry.storage import plain_files
from registry.storage.encodings import repeating
from registry.storage.files import Files, LocalFiles, replacing
from registry.storage.ids import is_sha256
from registry.storage.shared_lock import SharedLock

if TYPE_CHECKING:
    import pyarrow as pa

_PACKED_ROWS = 65_536
"""Rows in a row group of tables with packed columns: looking up one row decodes that many."""


_RECENT_BYTES = 64 << 20
"""The maximum size of the tables that are kept in memory, in bytes, unless a single one is larger."""

_LARGE_BYTES = 1 << 20
"""The size of an object from which it is decoded in threads; for a smaller one, starting them takes longer than they save."""

_WRITERS = 2
"""Tables that are written at a time: each takes a few times its size in memory."""


class Stored(NamedTuple):
    """An object's name and size in bytes."""

    sha256: str
    bytes: int


class Listed(NamedTuple):
    """A file of the store: an object, or a file that a crash left behind (`sha256` is None)."""

    sha256: str | None
    name: str
    bytes: int
    modified: float


class ObjectStore:
    """Content-addressed files: `ab/<sha256>`.

    Args:
        files: the place of the objects; a path is a folder of this machine.
        cache: for remote files, the folder with copies of what was written or read.
    """

    def __init__(self, files: Files | Path, cache: Path | None = None) -> None:
        self._files = LocalFiles(files) if isinstance(files, Path) else files
        if isinstance(self._files, LocalFiles):
            self._local = self._files
        elif cache:
            self._local = LocalFiles(cache)
        else:
            raise ValueError(f"objects at {self._files.where} need a cache folder on this machine")
        root = self._local.root
        self._recent: OrderedDict[str, tuple[pa.Table, int]] = OrderedDict()
        self._recent_bytes = 0
        self._use = SharedLock(root.with_name(f"{root.name}.lock"), f"the objects in {root} are being collected")

    @property
    def root(self) -> Path:
        """The folder of this machine with the objects or their copies."""
        return self._local.root

    def path(self, sha256: str) -> Path:
        """The path of an object or its copy on this machine, whether it exists or not. It is not verified: see `open`."""
        return self._local.path(_name(sha256))

    def put_bytes(self, data: bytes) -> Stored:
        """Store bytes durably. An undamaged object that already exists is touched instead."""
        stored = Stored(hashlib.sha256(data).hexdigest(), len(data))
        if not self._touched(stored):
            self._files.write(_name(stored.sha256), data)
            if self._local is not self._files:
                self._local.write(_name(stored.sha256), data)  # stored rows are read soon, for their content id
        return stored

    def put_again(self, sha256: str) -> Stored | None:
        """Store an object that was just read here, and so verified, once more. None where it has to be written for that."""
        _, size = self._recent.get(sha256, (None, 0))
        if self._files is not self._local or not self.has(sha256, size) or not self._touch(sha256):
            return None
        return Stored(sha256, size)

    def put_file(self, source: Path) -> Stored:
        """Copy a file into the store durably."""
        with source.open("rb") as file:
            stored = Stored(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())
        if not self._touched(stored):
            self._files.write_file(_name(stored.sha256), source)
        return stored

    def put_table(self, table: pa.Table, *, delta: tuple[str, ...] = ()) -> Stored:
        """Store a table as Parquet with page checksums; `delta` names sorted integer columns to pack tightly.

        Single rows are looked up in a table with such columns, so it gets small row groups.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        encodings = dict.fromkeys(delta, "DELTA_BINARY_PACKED") or None
        pq.write_table(
            table,
            sink,
            row_group_size=_PACKED_ROWS if delta else None,
            compression="zstd",
            write_page_checksum=True,
            column_encoding=encodings,
            use_dictionary=[path for path in repeating(table) if path not in delta],
        )
        return self.put_bytes(sink.getvalue().to_pybytes())

    def put_tables(self, tables: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, Stored]]:
        """Store tables like put_table, in order. While two are stored, in threads, the next one is made."""
        with ThreadPoolExecutor(_WRITERS) as writers:
            waiting: deque[tuple[pa.Table, Future[Stored]]] = deque()
            for table in tables:
                if len(waiting) == _WRITERS:
                    first, stored = waiting.popleft()
                    yield first, stored.result()
                waiting.append((table, writers.submit(self.put_table, table)))
            for first, stored in waiting:
                yield first, stored.result()

    def open(self, sha256: str) -> pa.NativeFile:
        """An object as a seekable file in verified memory. Raises CorruptError when it is damaged or missing."""
        import pyarrow as pa

        return pa.BufferReader(self._verified(sha256))

    def read_bytes(self, sha256: str) -> bytes:
        """An object's bytes, verified. Raises CorruptError when it is damaged or missing."""
        return bytes(self._verified(sha256))

    def read_document(self, sha256: str) -> dict[str, Any]:
        """An object that contains a JSON object, verified. Raises CorruptError when it does not, or is damaged or missing."""
        try:
            document = json.loads(self.read_bytes(sha256))
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise CorruptError(f"object {sha256} in {self._files.where} is not a JSON document")
        return document

    def read_table(self, sha256: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of a Parquet object, verified. Raises CorruptError when it is damaged or missing."""
        return self._decoded(sha256, self.open(sha256), columns)

    def _decoded(self, sha256: str, opened: pa.BufferReader, columns: list[str] | None) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Not pq.read_table, which imports pandas.
            with pq.ParquetFile(opened, page_checksum_verification=True) as file:
                return file.read(columns=columns, use_threads=opened.size() >= _LARGE_BYTES)
        except (OSError, pa.ArrowException) as error:
            raise CorruptError(f"object {sha256} in {self._files.where} is not readable as Parquet: {error}") from error

    def read_recent(self, sha256: str) -> pa.Table:
        """The same. The last tables that were read here are kept: a run reads what a step stores for the content id and for the
        next step, and a worker reads an object for each partition that is cut from it. Not for use from several threads.
        """
        if sha256 in self._recent:
            self._recent.move_to_end(sha256)
            return self._recent[sha256][0]
        opened = self.open(sha256)
        table = self._decoded(sha256, opened, None)
        self._recent[sha256] = table, opened.size()
        self._recent_bytes += table.nbytes
        while self._recent_bytes > _RECENT_BYTES and len(self._recent) > 1:
            _, (oldest, _) = self._recent.popitem(last=False)
            self._recent_bytes -= oldest.nbytes
        return table

    def has(self, sha256: str, size: int) -> bool:
        """Whether the object exists with the size it was written with."""
        return self._files.size(_name(sha256)) == size

    def verify(self, sha256: str) -> None:
        """Read the object itself, not its copy; raises CorruptError when it is damaged or missing."""
        if self._files is self._local:
            self._verified(sha256)
            return
        try:
            data = self._files.read(_name(sha256))
        except FileNotFoundError:
            raise self._missing(sha256) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self._damaged(sha256)

    def listing(self, strict: bool = True) -> Iterator[Listed]:
        """All files of the store, in no particular order; `strict` as in Files.listing."""
        for name, size, modified in self._files.listing(strict):
            last = name.rpartition("/")[2]
            sha256 = last if is_sha256(last) and name == _name(last) else None
            yield Listed(sha256, name, size, modified)

    def remove(self, name: str) -> None:
        """Remove a file of the listing by its `name`, and its copy on this machine."""
        self._files.remove(name)
        self._local.remove(name)

    def remove_old(self, name: str, horizon: float) -> bool:
        """Remove a file of the listing, unless it is now younger than `horizon`. Only for objects in a folder.

        Nobody can touch an object between the check of its age and its removal.
        """
        path = self._local.path(name)
        with self._use.take():
            about = plain_files.about(path)
            if not about or about.st_mtime > horizon:
                return False
            path.unlink(missing_ok=True)
        return True

    # -- inside -------------------------------------------------------------------------------------------------

    def _touched(self, stored: Stored) -> bool:
        """Touch an object; returns whether it exists undamaged. Storing a damaged one again repairs it.

        It is touched before it is checked: garbage collection either sees that, or has already removed the object.
        """
        # Objects at a URL cannot be touched. Most others are new, and need no lock.
        if self._files is not self._local or not self.has(*stored) or not self._touch(stored.sha256):
            return False
        try:
            self._verified(stored.sha256)
        except CorruptError:
            return False
        return True

    def _touch(self, sha256: str) -> bool:
        """Touch an object in a folder; returns whether it exists."""
        with self._use.join():
            return self._local.touch(_name(sha256))

    def _verified(self, sha256: str) -> pa.Buffer:
        """The bytes of an object, mapped into memory and hashed there, so that exactly the hashed bytes are parsed."""
        local = _mapped(self.path(sha256))
        if local is None and self._files is self._local:
            raise self._missing(sha256)
        if local is not None and hashlib.sha256(local).hexdigest() == sha256:
            return local
        if self._files is self._local:
            raise self._damaged(sha256)
        return self._copied(sha256)

    def _copied(self, sha256: str) -> pa.Buffer:
        """The same for a remote object; once verified, it is kept as a copy on this machine."""
        with replacing(self.path(sha256)) as copy:
            try:
                self._files.read_file(_name(sha256), copy)
            except FileNotFoundError:
                raise self._missing(sha256) from None
            data = _mapped(copy)
            if data is None or hashlib.sha256(data).hexdigest() != sha256:
                raise self._damaged(sha256)
        return data

    def _missing(self, sha256: str) -> MissingError:
        return MissingError(f"object {sha256} is missing from {self._files.where}")

    def _damaged(self, sha256: str) -> CorruptError:
        return CorruptError(f"object {sha256} in {self._files.where} is damaged: its bytes do not have this SHA-256")


def _name(sha256: str) -> str:
    """The file of an object. Only a SHA-256 in hex is a name, so no name can point out of the store."""
    if not is_sha256(sha256):
        raise ValueError(f"not an object name: {sha256!r}")
    return f"{sha256[:2]}/{sha256}"


def _mapped(path: Path) -> pa.Buffer | None:
    """The bytes of a file, mapped; they stay valid when the file is removed. None when it is missing."""
    import pyarrow as pa

    try:
        with plain_files.opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            return pa.py_buffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")
    except FileNotFoundError:
        return None
