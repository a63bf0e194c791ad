"""Small facts that are stored nowhere else, one per file, with a checksum: pins, and used version numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from registry.catalog.manifest import Frozen, unfit
from registry.errors import CorruptError
from registry.storage import fault_points, plain_files
from registry.storage.checked_json import json_digest, read_checked_json, write_checked_json
from registry.storage.files import fsync_folder

M = TypeVar("M", bound=Frozen)


class Marks(Generic[M]):
    """Documents of one kind in one folder. A document replaces an older one with the same key.

    Args:
        key: the fields that identify a document.
    """

    def __init__(self, folder: Path, kind: type[M], key: tuple[str, ...]) -> None:
        self._folder = folder
        self._kind = kind
        self._key = key

    def write(self, document: M) -> None:
        """Write a document durably."""
        write_checked_json(self._path(self._key_of(document)), document.model_dump(mode="json"))
        fault_points.point("mark.written")

    def remove(self, key: list[Any]) -> None:
        """Remove a document, if it exists."""
        path = self._path(key)
        if plain_files.kind(path):
            path.unlink()
            fsync_folder(self._folder)
        fault_points.point("mark.removed")

    def read(self) -> list[M]:
        """All documents; raises CorruptError, which names the file, when one is damaged."""
        return [self.read_one(path) for path in self.files()]

    def files(self) -> list[Path]:
        """The files of the documents."""
        return sorted(plain_files.folder(self._folder).glob("*.json"))

    def read_one(self, path: Path) -> M:
        """One of `files`; raises CorruptError, which names the file, when it is damaged."""
        try:
            found = self._kind.model_validate(read_checked_json(path))
        except ValidationError as error:
            raise CorruptError(f"{path} {unfit(error)}") from error
        if self._path(self._key_of(found)).name != path.name:
            raise CorruptError(f"{path} is damaged: it is the file of {' '.join(map(str, self._key_of(found)))}")
        return found

    def _key_of(self, document: M) -> list[Any]:
        return [getattr(document, field) for field in self._key]

    def _path(self, key: list[Any]) -> Path:
        return plain_files.folder(self._folder) / f"{json_digest(key)}.json"
