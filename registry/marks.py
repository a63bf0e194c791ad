"""Small facts that only these files hold, one to a file with its checksum: pins, and version numbers given out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from registry import faults
from registry.documents import json_digest, read_checked_json, write_checked_json
from registry.files import fsync_folder


class Marks:
    """Documents by key in one folder; writing one again replaces it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, key: list[Any], document: dict[str, Any]) -> None:
        """Keep a document, durably."""
        write_checked_json(self._path(key), document)
        faults.point("mark.written")

    def remove(self, key: list[Any]) -> None:
        """Remove a document; one that is absent is no error."""
        path = self._path(key)
        if path.exists():
            path.unlink()
            fsync_folder(self._folder)
        faults.point("mark.removed")

    def read(self) -> list[dict[str, Any]]:
        """All documents; raises CorruptError, which names the file, when one is damaged."""
        return [read_checked_json(path) for path in sorted(self._folder.glob("*.json"))]

    def _path(self, key: list[Any]) -> Path:
        return self._folder / f"{json_digest(key)}.json"
