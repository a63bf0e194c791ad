"""A registry laid over another one, for work that commits nothing."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from registry.catalog.manifest import Manifest
from registry.registry import Registry
from registry.reviews.store import ReviewStore
from registry.storage.objects import ObjectStore
from registry.storage.overlaid_objects import OverlaidObjects


class Overlay(Registry):
    """Versions, runs, receipts and new objects are in its own folder. Objects and versions that it lacks are read from the
    registry below. The journal of model answers is the one below, so that no answer is lost.

    It cannot be opened by its `location`: pass the object itself to the code that uses it.

    Args:
        root: the folder of the overlay.
        below: the other registry, which may not exist yet.
    """

    def __init__(self, root: Path | str, below: Registry) -> None:
        super().__init__(root)
        self.below = below

    @cached_property
    def store(self) -> ObjectStore:
        """See Registry."""
        return OverlaidObjects(self.root / "objects", self.below.store)

    @cached_property
    def reviews(self) -> ReviewStore:
        """The reviews of the registry below; an overlay has none of its own."""
        return self.below.reviews

    @property
    def journal(self) -> Path:
        """See Registry."""
        return self.below.journal

    def manifest(self, name: str, version: int) -> Manifest:
        """See Registry."""
        try:
            return super().manifest(name, version)
        except KeyError:
            return self.below.manifest(name, version)
