"""The parts of source files, remembered in the user's cache: parsing them is most of the work of a fingerprint.

An entry is one JSON file for each source file. Its first line is a SHA-256 over what the parts follow from (the source, the
version of Python, the code that computes them) and the parts themselves, so an entry of another source, or a damaged one, is
the same as none. Nobody else can write an entry: the folder and its files have to belong to the user alone. Where that is not
so, or nothing can be written, there is no cache, and everything works.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import stat
import sys
import threading
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from types import CodeType

from engine.fingerprint import syntax
from engine.fingerprint.syntax import Part, class_node, code_node, parsed, part, without_methods
from engine.llm.model_cache import cache_folder
from registry.errors import CorruptError
from registry.storage import plain_files

MOST_ENTRIES = 2000
"""Entries are named after files; those of files that are gone are never asked for again."""


class Parts:
    """The parts of one source file; `file` is where it is, None when it is not in a file."""

    def __init__(self, source: str, file: str | None) -> None:
        self._source = source
        self._file = file
        self._known = _load(file, source) if file else {}
        self._new = False

    def function(self, code: CodeType) -> Part | None:
        """The function or lambda that a code object was compiled from; None if it is not there."""
        key = f"{code.co_name} {code.co_firstlineno}"
        if code.co_name == "<lambda>":  # there may be several on one line
            positions = repr(list(code.co_positions()))
            key += f" {hashlib.sha256(positions.encode()).hexdigest()}"
        return self._part(key, lambda: code_node(self._source, code))

    def class_(self, name: str, without: frozenset[str]) -> Part | None:
        """The first class of this name, without its methods of some names; None if there is none."""

        def find() -> ast.AST | None:
            node = class_node(self._source, name)
            return node and without_methods(node, without)

        return self._part(f"class {name} {' '.join(sorted(without))}", find)

    def module(self) -> Part:
        """The whole file."""
        found = self._part("module", lambda: parsed(self._source))
        assert found
        return found

    def _part(self, key: str, find: Callable[[], ast.AST | None]) -> Part | None:
        if key not in self._known:
            node = find()
            if node is None:
                return None
            self._known[key] = part(node)
            self._new = True
        return self._known[key]

    def save(self) -> None:
        """Remember the parts that were found. Of two processes that do so at once, one wins; the other's are found again."""
        if self._new and self._file:
            self._new = False
            _save(self._file, self._source, dict(self._known))


@lru_cache(maxsize=256)
def parts_of(source: str, file: str | None) -> Parts:
    """The parts of a source file; many operators share helpers, so they are kept for the process, too."""
    return Parts(source, file)


def _load(file: str, source: str) -> dict[str, Part]:
    try:
        with plain_files.opened(_folder() / _name(file)) as entry:
            if not _is_users(os.fstat(entry.fileno())):
                return {}
            digest, _, content = entry.read().partition(b"\n")
        if digest != _digest(source, content):
            return {}
        return {key: Part(*fields) for key, fields in json.loads(content).items()}
    except (OSError, CorruptError, ValueError):
        return {}


def _save(file: str, source: str, known: dict[str, Part]) -> None:
    content = json.dumps(known).encode()
    with contextlib.suppress(OSError):
        folder = _folder()
        target = folder / _name(file)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as entry:
                entry.write(_digest(source, content) + b"\n" + content)
            # Not durable: what a power cut damages is found again.
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _limit(folder)


def _limit(folder: Path) -> None:
    """Remove the older half of too many entries, such as those of files that are gone."""
    if len(os.listdir(folder)) > MOST_ENTRIES:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.lstat().st_mtime)
        for entry in entries[: len(entries) // 2]:
            entry.unlink(missing_ok=True)


def _folder() -> Path:
    """The folder of the entries; raises OSError when the user cannot have it alone."""
    try:
        folder = cache_folder() / "syntax"
    except RuntimeError as error:  # the user has no home
        raise FileNotFoundError(str(error)) from error
    if not os.path.lexists(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or not _is_users(about):
        raise PermissionError(f"{folder} is not a folder that only this user can write to")
    return folder


def _is_users(about: os.stat_result) -> bool:
    """Whether a file belongs to this user, and nobody else can write to it."""
    return about.st_uid == os.geteuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _name(file: str) -> str:
    """Named after the file, so that editing it replaces its entry."""
    return hashlib.sha256(f"{sys.version}\0{file}".encode(errors="surrogateescape")).hexdigest()


def _digest(source: str, content: bytes) -> bytes:
    """Over everything that the parts follow from, and the parts."""
    digest = hashlib.sha256(_computed_by())
    for text in (source.encode(errors="surrogatepass"), content):
        digest.update(f"{len(text)}\n".encode())
        digest.update(text)
    return digest.hexdigest().encode()


@cache
def _computed_by() -> bytes:
    """What computes the parts: the version of Python, and this code. Raises OSError when it cannot be read."""
    digest = hashlib.sha256(sys.version.encode())
    for file in (syntax.__file__, __file__):
        digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.digest()
