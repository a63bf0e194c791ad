"""An object store laid over another one: it reads both, and writes only its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import MissingError
from registry.storage.objects import ObjectStore

if TYPE_CHECKING:
    import pyarrow as pa


class OverlaidObjects(ObjectStore):
    """See ObjectStore. What it lists and removes are its own objects.

    Args:
        folder: the folder for its own objects.
        below: the store with all other objects.
    """

    def __init__(self, folder: Path, below: ObjectStore) -> None:
        super().__init__(folder)
        self._below = below

    def has(self, sha256: str, size: int) -> bool:
        """See ObjectStore."""
        return super().has(sha256, size) or self._below.has(sha256, size)

    def _verified(self, sha256: str) -> pa.Buffer:
        try:
            return super()._verified(sha256)
        except MissingError:
            return self._below._verified(sha256)
