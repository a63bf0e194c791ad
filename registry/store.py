"""The object store: immutable files named by their SHA-256, written so that a crash leaves all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

_SHA256 = re.compile(r"[0-9a-f]{64}")


class CorruptError(RuntimeError):
    """A stored file does not hold what was written."""


class Stored(NamedTuple):
    """An object's name and size in bytes."""

    sha256: str
    bytes: int


class ObjectStore:
    """Content-addressed files under `root`: `ab/<sha256>`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where an object lies. Only a SHA-256 in hex is a name, so no name can lead outside the store."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not an object name: {sha256!r}")
        return self.root / sha256[:2] / sha256

    def put_bytes(self, data: bytes) -> Stored:
        """Store bytes durably; an object that is there, and undamaged, is not written again."""
        stored = Stored(hashlib.sha256(data).hexdigest(), len(data))
        target = self.path(stored.sha256)
        if not _holds(target, stored):
            durable_write(target, data)
        return stored

    def put_file(self, source: Path) -> Stored:
        """Copy a file into the store durably."""
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            target = self.path(sha256)
            if not _holds(target, Stored(sha256, size)):
                file.seek(0)
                with _replacing(target) as out:
                    while block := file.read(1 << 20):
                        out.write(block)
        return Stored(sha256, size)

    def put_table(self, table: pa.Table, *, delta: tuple[str, ...] = ()) -> Stored:
        """Store a table as Parquet with page checksums; `delta` names sorted integer columns to pack tightly."""
        sink = pa.BufferOutputStream()
        encodings = dict.fromkeys(delta, "DELTA_BINARY_PACKED") or None
        plain = [name for name in table.schema.names if name not in delta]
        pq.write_table(
            table,
            sink,
            compression="zstd",
            write_page_checksum=True,
            column_encoding=encodings,
            use_dictionary=plain if delta else True,
        )
        return self.put_bytes(sink.getvalue().to_pybytes())

    def read_table(self, sha256: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet object, checking every page's CRC. Raises CorruptError rather than give wrong rows."""
        try:
            # Not pq.read_table, which imports pandas on the way.
            with pq.ParquetFile(self.path(sha256), page_checksum_verification=True) as file:
                return file.read(columns=columns)
        except FileNotFoundError:
            raise CorruptError(f"object {sha256} is missing from {self.root}") from None
        except (OSError, pa.ArrowException) as error:
            raise CorruptError(f"object {sha256} is damaged: {error}") from error

    def has(self, sha256: str, size: int) -> bool:
        """Whether the object is there with the size it was written with."""
        return _same_size(self.path(sha256), size)


def durable_write(target: Path, data: bytes) -> None:
    """Write a file so that after a crash it is either whole or as it was: tmp, fsync, rename, fsync of the folder."""
    with _replacing(target) as out:
        out.write(data)


def write_checked_json(target: Path, document: Any) -> None:
    """Write JSON durably together with its SHA-256."""
    durable_write(target, canonical_json({"sha256": json_digest(document), "body": document}) + b"\n")


def read_checked_json(path: Path) -> Any:
    """Read what write_checked_json wrote; raises CorruptError when a byte changed, FileNotFoundError when absent."""
    try:
        envelope = json.loads(path.read_bytes())
        if envelope["sha256"] == json_digest(envelope["body"]):
            return envelope["body"]
    except (ValueError, KeyError, TypeError):
        pass  # not even JSON: damaged all the same
    raise CorruptError(f"{path} is damaged: its checksum does not match")


def canonical_json(document: Any) -> bytes:
    """The one spelling of a JSON document that is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def json_digest(document: Any) -> str:
    """Hex SHA-256 of a document's canonical JSON."""
    return hashlib.sha256(canonical_json(document)).hexdigest()


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `target` that takes its place, durably, when the block ends without an error."""
    if not target.parent.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(target.parent.parent)
    temporary = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(target.parent)


def fsync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holds(path: Path, stored: Stored) -> bool:
    """Whether the object is there undamaged; storing a damaged one again heals it."""
    if not _same_size(path, stored.bytes):
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == stored.sha256


def _same_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False
