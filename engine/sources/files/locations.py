"""Finds the files of a dataset's `path`: on this machine or at a URL, perhaps compressed, perhaps in `key=value` folders."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import quote, unquote, urlsplit

from engine.credentials import ENV, redacted
from engine.errors import EngineError
from registry.storage.valid_text import escaped

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
_ALSO = {"ndjson": "jsonl", "jsonlines": "jsonl", "pq": "parquet"}

MAX_EXPANSION = 200
"""The highest compression ratio of a file that expands to more than FREE_BYTES."""
FREE_BYTES = 256 << 20


def _zstd(raw: IO[bytes]) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")


_DECOMPRESS: dict[str, tuple[bytes, Callable[[IO[bytes]], Any]]] = {
    "gz": (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
    "bz2": (b"BZh", bz2.BZ2File),
    "xz": (b"\xfd7zXZ\0", lzma.LZMAFile),
    "zst": (b"\x28\xb5\x2f\xfd", _zstd),
}
"""By suffix: the first bytes of such a file, and how to read it."""

_PARTITION = re.compile(r"([A-Za-z_][\w-]*)=(.*)")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    Attributes:
        name: the name that users see, without secrets.
        path: the path in `system` (an fsspec file system; None: this machine).
        partition: fields from the names of its folders: `lang=en/part-0.parquet` has `{"lang": "en"}`.
        secrets: texts that must not be shown, with their replacements.
    """

    name: str
    path: str = field(repr=False)
    system: Any = field(default=None, compare=False, repr=False)
    partition: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def _endings(self) -> tuple[str, str]:
        """(suffix of the format, suffix of the compression), in lower case."""
        path = urlsplit(self.path).path if _is_http(self.path) else self.path
        name = PurePosixPath(unquote(path) if _is_http(self.path) else path)
        last = name.suffix.lstrip(".").lower()
        return (PurePosixPath(name.stem).suffix.lstrip(".").lower(), last) if last in _DECOMPRESS else (last, "")

    @property
    def format(self) -> str | None:
        """One of FORMATS, by the file's name; None for others."""
        ending = _ALSO.get(self._endings[0], self._endings[0])
        return ending if ending in FORMATS else None

    @property
    def is_plain(self) -> bool:
        """Whether it is on this machine and not compressed, so that it can be read from any byte."""
        return self.system is None and not self._endings[1]

    def open_raw(self) -> IO[bytes]:
        """The stored bytes, from the start; not every stream can seek."""
        if self.system is None:
            return open(self.path, "rb")
        # In one stream, because many servers do not support ranges.
        options = {"block_size": 0} if _is_http(self.path) else {}
        return io.BufferedReader(cast(io.RawIOBase, _Raw(self.system.open(self.path, "rb", **options))), 1 << 20)

    @contextmanager
    def open(self, *, seekable: bool = False) -> Iterator[IO[bytes]]:
        """The bytes, decompressed.

        Args:
            seekable: copy them to a temporary file if they arrive as a stream.

        Raises:
            EngineError: it expands beyond the limit.
        """
        with self.open_raw() as raw:
            content = raw
            magic, decompress = _DECOMPRESS.get(self._endings[1], (b"", None))
            # With `Content-Encoding: gzip` it was decompressed in transit.
            if decompress and (not (start := _peek(raw, len(magic))) or start == magic):
                counted = _Raw(raw)
                source = decompress(cast(IO[bytes], counted))
                content = io.BufferedReader(cast(io.RawIOBase, _Bounded(source, counted, self.name)), 1 << 20)
            if seekable and (content is not raw or (self.system is not None and _is_http(self.path))):
                with tempfile.TemporaryFile() as copy:
                    shutil.copyfileobj(content, copy, 1 << 20)
                    copy.seek(0)
                    yield cast(IO[bytes], copy)
            else:
                yield content

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn any error in the block into an EngineError that names the file: each file system has its own error classes."""
        try:
            yield
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"cannot read {self.name}: {_words(error, self.secrets)}") from error


def find_files(path: str, base_dir: Path) -> list[SourceFile]:
    """The files of a `path`: an fsspec URL, or a file or glob in the working folder, else in the pipeline's folder.

    `${env.NAME}` in it is replaced by that environment variable, whose value is never shown.

    Raises:
        EngineError: the store cannot be reached.
    """
    path, secrets = _with_environment(path)
    if "://" in path or "::" in path:
        return _at_url(path, secrets)
    for folder in (Path(), base_dir):
        wanted = folder / Path(path).expanduser()
        found = (
            [str(wanted)] if wanted.is_file() else sorted(glob.glob(str(wanted), recursive=True))
        )  # a name may have brackets
        if files := [name for name in found if Path(name).is_file()]:
            return [SourceFile(_shown(name, secrets), name, None, _partition(name), secrets) for name in files]
    return []


def _with_environment(path: str) -> tuple[str, dict[str, str]]:
    secrets: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        if not (found := os.environ.get(match[1])):
            raise EngineError(f"the environment variable {match[1]} is not set")
        secrets[found] = match[0]
        return found

    return ENV.sub(value, path), secrets


def _at_url(url: str, secrets: Mapping[str, str]) -> list[SourceFile]:
    import fsspec

    def found(path: str, name: str) -> SourceFile:
        return SourceFile(_shown(name, secrets), path, system, _partition(path), secrets)

    try:
        system, inner = fsspec.core.url_to_fs(url)
        if kind := _kind(system, inner):
            if kind == "directory":
                folder = _shown(url.rstrip("/"), secrets)
                raise EngineError(f"{folder} is a folder; name its files, for example {folder}/*.jsonl")
            return [found(inner, url)]
        if "*" not in inner and (_is_http(inner) or not re.search(r"[?\[]", inner)):
            return []
        first, *chain = url.split("::")
        protocol = first.partition("://")[0] if "://" in first else first
        names = {
            path: "::".join([f"{protocol}://{path}" if chain else system.unstrip_protocol(path), *chain])
            for path in sorted(system.glob(inner))
        }
        return [found(path, name) for path, name in names.items()]
    except EngineError:
        raise
    except Exception as error:  # each file system has its own error classes
        raise EngineError(f"cannot read {_shown(url, secrets)}: {_words(error, secrets)}") from error


def _kind(system: Any, path: str) -> str | None:
    """`file` or `directory`; None if it does not exist."""
    try:
        return str(system.info(path)["type"])
    except FileNotFoundError as error:
        # For HTTP this may be any failure; the cause says which.
        cause = error.__cause__
        if cause is None or getattr(cause, "status", None) in (404, 410):
            return None
        raise cause from error


def _partition(path: str) -> dict[str, str]:
    """The fields from folders named `key=value`."""
    path = urlsplit(path).path if _is_http(path) else path
    pairs = [match for folder in PurePosixPath(path).parts[:-1] if (match := _PARTITION.fullmatch(folder))]
    return {unquote(pair[1]): unquote(pair[2]) for pair in pairs if pair[2] != _NO_VALUE}


def _is_http(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def _shown(text: str, secrets: Mapping[str, str]) -> str:
    for secret, shown in secrets.items():
        for form in {secret, quote(secret), quote(secret, safe="")}:
            text = text.replace(form, shown)
    return redacted(escaped(text))


def _words(error: Exception, secrets: Mapping[str, str]) -> str:
    kind, status = type(error).__name__, getattr(error, "status", None)
    if isinstance(status, int):  # of an HTTP response
        answer = f"HTTP {status} {getattr(error, 'message', '')}".strip()
        if status in (401, 403):
            return f"the server denies access ({answer}). Check the address; if it needs a token, use `${{env.NAME}}` in it"
        return f"the server answered {answer}"
    if "Credential" in kind or "Credential" in str(error):
        return (
            f"no usable credentials ({_shown(str(error), secrets)}); set them in the environment: for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (FSSPEC_S3_ANON=true for public buckets)"
        )
    reason = getattr(error, "strerror", None) if not isinstance(error, FileNotFoundError) else None
    text = _shown(f"{reason or error}", secrets)
    return text if isinstance(error, OSError | ImportError | ValueError) and text else f"{kind}: {text}"


def _peek(raw: Any, count: int) -> bytes:
    return bytes(raw.peek(count)[:count])


class _Raw(io.RawIOBase):
    """Makes a raw stream of anything with `read(n)`, and counts the bytes; fsspec's files lack much of the protocol."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.count = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(getattr(self.inner, "seekable", lambda: False)())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self.inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self.inner.tell())

    def readinto(self, buffer: Any) -> int:
        content = self.inner.read(len(buffer))
        buffer[: len(content)] = content
        self.count += len(content)
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self.inner.close()
        super().close()


class _Bounded(_Raw):
    """A decompressed stream that raises an error when it expands more than real data does."""

    def __init__(self, inner: Any, compressed: _Raw, name: str) -> None:
        super().__init__(inner)
        self.compressed = compressed
        self.name = name

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: Any) -> int:
        read = super().readinto(buffer)
        if self.count > max(FREE_BYTES, MAX_EXPANSION * self.compressed.count):
            raise EngineError(
                f"{self.name} expands to more than {MAX_EXPANSION} times its size; if that is intended, decompress it yourself"
            )
        return read
