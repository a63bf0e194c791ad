"""Absolute paths that code names inside its project. They count by their place in it, so a project can be moved, and files by
their content."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path, PurePath

LARGE = 4 << 20
"""The size in bytes from which a file counts by its size alone, as hashing it would delay every command."""


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
            self._folders |= {str(folder): None, str(folder.resolve()): None}

    def text(self, value: str | PurePath) -> str | None:
        """The text of an absolute path inside the project; None for any other value."""
        named = str(value)
        if not os.path.isabs(named) or "\0" in named:
            return None
        path = Path(named)
        inside = [folder for folder in self._folders if path.is_relative_to(folder)]
        if not inside:
            return None
        place = path.relative_to(max(inside, key=len)).as_posix()
        content = self.contents[path] = content_of(path)
        return f"{type(value).__name__} in the project:{place!r}:{content}"


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
