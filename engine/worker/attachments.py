"""The files that operators keep: stored by content, and listed in the manifest."""

from __future__ import annotations

from pathlib import Path

from registry import DataObject, Registry, StoredFile


class FileCollector:
    """Stores the files of artifacts and lists them for the manifest."""

    def __init__(self, registry: Registry) -> None:
        self._store = registry.store
        self.kept: list[DataObject] = []

    def __call__(self, folder: Path) -> list[StoredFile]:
        files = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            stored = self._store.put_file(path)
            self.kept.append(DataObject(sha256=stored.sha256, rows=0, bytes=stored.bytes))
            files.append(StoredFile(name=path.relative_to(folder).as_posix(), sha256=stored.sha256, bytes=stored.bytes))
        return files
