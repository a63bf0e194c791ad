"""Absolute paths that code names inside its project. They count by their place in it, so a project can be moved, and files by
their content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

LARGE = 4 << 20
"""The size in bytes from which a file counts by its size alone, as hashing it would delay every command."""

_NAMES = (str, PurePath)


class ProjectFiles:
    """The folders that the modules of a project were imported from, and the files in them that its code names.

    Attributes:
        contents: the files, and what they contain: see `content_of`.
    """

    def __init__(self) -> None:
        self._folders: dict[str, None] = {}
        self.contents: dict[Path, str] = {}

    def add_module(self, name: str, file: str | None) -> None:
        """Take the folder from which a module of this full name was imported."""
        if file and os.path.isabs(file):
            above = name.count(".") + (os.path.basename(file) == "__init__.py")
            folder = Path(file).parents[above] if above < len(Path(file).parents) else Path(file).parent
            if str(folder) not in self._folders:
                self._folders |= {str(folder): None, str(folder.resolve()): None}

    def text(self, value: str | PurePath) -> str | None:
        """The text of an absolute path inside the project; None for any other value."""
        if not _is_absolute(value):
            return None
        path = Path(value)
        inside = [folder for folder in self._folders if path.is_relative_to(folder)]
        if not inside:
            return None
        place = path.relative_to(max(inside, key=len)).as_posix()
        content = self.contents[path] = content_of(path)
        return f"{type(value).__name__} in the project:{place!r}:{content}"


def paths_in(value: Any) -> Iterator[str | PurePath]:
    """The absolute paths in a value: in containers, dataclasses, pydantic models, and defaults of their fields."""
    waiting, seen = [value], set[int]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, _NAMES):
            if _is_absolute(each):
                yield each
        elif id(each) not in seen:  # it may contain itself
            seen.add(id(each))
            waiting.extend(_parts(each))


def _is_absolute(name: str | PurePath) -> bool:
    if isinstance(name, PurePath):
        return name.is_absolute() and "\0" not in str(name)
    return name[:1] == os.sep and "\0" not in name and not isinstance(name, Enum)  # most texts are none


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, FieldInfo):
        return [value.default]
    if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        return vars(value).values() if hasattr(value, "__dict__") else [getattr(value, each.name) for each in fields(value)]
    return ()


def content_of(path: Path) -> str:
    """What a file contains, as a text: its SHA-256, or the size of a large one; empty for what is not a readable file.

    So is that of Python files: their code counts if it is reached.
    """
    if path.suffix == ".py":
        return ""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return ""
        return f"size {about.st_size}" if about.st_size >= LARGE else hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):  # ValueError: a name that is not Unicode
        return ""
