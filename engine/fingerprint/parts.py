"""The parts of source files, remembered in the user's cache: parsing them is most of the work of a fingerprint.

There is an entry for each source file, in JSON. Parts follow from the source, the version of Python and the code that computes
them.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from types import CodeType

from engine.fingerprint import syntax
from engine.fingerprint.syntax import Part, class_node, code_node, parsed, part, without_methods
from engine.user_cache import Entries

ENTRIES = Entries("syntax")
"""They are named after files; those of files that are gone are never asked for again."""


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
        content = ENTRIES.read(_name(file), _follows_from(source))
        return {key: Part(*fields) for key, fields in json.loads(content or b"{}").items()}
    except OSError:  # the code that computes the parts cannot be read
        return {}


def _save(file: str, source: str, known: dict[str, Part]) -> None:
    with contextlib.suppress(OSError):
        ENTRIES.write(_name(file), _follows_from(source), json.dumps(known).encode())


def _name(file: str) -> str:
    """Named after the file, so that editing it replaces its entry."""
    return hashlib.sha256(f"{sys.version}\0{file}".encode(errors="surrogateescape")).hexdigest()


def _follows_from(source: str) -> bytes:
    """Everything that the parts follow from. Raises OSError when it cannot be read."""
    return _computed_by() + source.encode(errors="surrogatepass")


@cache
def _computed_by() -> bytes:
    """What computes the parts: the version of Python, and this code. Raises OSError when it cannot be read."""
    digest = hashlib.sha256(sys.version.encode())
    for file in (syntax.__file__, __file__):
        digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.digest()
