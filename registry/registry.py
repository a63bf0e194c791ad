"""A registry: one folder with the object store, the catalog, receipts and the journal of model calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from registry.catalog import Catalog
from registry.manifest import Manifest
from registry.query import Session
from registry.store import ObjectStore


class Registry:
    """The parts of a registry folder, by name.

    Args:
        root: the folder; it is made when something is first written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()

    @cached_property
    def store(self) -> ObjectStore:
        """Immutable files by content."""
        return ObjectStore(self.root / "objects")

    @cached_property
    def catalog(self) -> Catalog:
        """Versions, runs and lineage."""
        return Catalog(self.root, self.store)

    @property
    def receipts(self) -> Path:
        """Where finished partitions of steps are noted."""
        return self.root / "receipts"

    @property
    def journal(self) -> Path:
        """Where answers of models are kept."""
        return self.root / "journal"

    @property
    def exists(self) -> bool:
        """Whether anything was ever written here."""
        return (self.root / "registry.duckdb").exists() or (self.root / "manifests").exists()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A consistent view for SQL and lookups, closed at the end of the block."""
        session = Session(self.catalog, self.store)
        try:
            yield session
        finally:
            session.close()

    def find_step(self, step_key: str) -> list[Manifest]:
        """The committed versions of a step key, or nothing."""
        return self._manifests("step_key = ?", [step_key])

    def manifest(self, name: str, version: int) -> Manifest:
        """A committed version; raises KeyError when there is none."""
        found = self._manifests("name = ? and version = ?", [name, version])
        if not found:
            raise KeyError(f"{name}@{version}")
        return found[0]

    def newest(self, name: str) -> Manifest | None:
        """The version of a name that was committed last."""
        found = self._manifests("name = ?", [name])
        return found[-1] if found else None

    def intact(self, manifest: Manifest) -> bool:
        """Whether all of a version's objects are there, in the size they were written with."""
        return self.catalog.intact(manifest)

    def _manifests(self, condition: str, values: list[Any]) -> list[Manifest]:
        if not self.exists:
            return []
        con = self.catalog.snapshot()
        try:
            query = f"select version_id from internal.versions where {condition} order by name, version"
            found = con.execute(query, values).fetchall()
        finally:
            con.close()
        return [self.catalog.manifest(version_id) for (version_id,) in found]
