"""The files of reviews: decisions are only ever added, and each is durable before `add` returns.

Decisions that are made together are one file, `reviews/<review>/<sha256>.json`, written whole, so an import is stored as a
whole or not at all, and several processes, also on several machines, never wait for each other. What a review asks is in
`reviews/<review>/queue.json`, which every run replaces. `<review>` is the digest of the review's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from registry.catalog.manifest import unfit
from registry.errors import CorruptError, RegistryError
from registry.reviews.decisions import Decision, Queue
from registry.storage.checked_json import checked_json, json_digest, parse_checked_json
from registry.storage.files import Files
from registry.storage.lock import READ_ONLY

_QUEUE = "queue.json"


class ReviewStore:
    """All decisions of a registry, and what its reviews ask.

    Args:
        files: the folder `reviews`.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._known: dict[str, tuple[Decision, ...]] = {}

    @property
    def where(self) -> str:
        """The folder, for messages."""
        return self._files.where

    def add(self, decisions: Sequence[Decision]) -> None:
        """Store decisions of one review durably: all of them, or none.

        Raises:
            RegistryError: the registry cannot be written. Nothing was stored.
        """
        if not decisions:
            return
        [queue] = {each.queue for each in decisions}
        document = [each.model_dump(mode="json", exclude_defaults=True) for each in decisions]
        name = f"{_folder(queue)}/{json_digest(document)}.json"
        self._write(name, document, "the decision was" if len(decisions) == 1 else "the decisions were")
        self._known[name] = tuple(decisions)

    def decisions(self, queue: str | None = None) -> list[Decision]:
        """All decisions of a review (None: of all reviews), by time. Those that were replaced are among them.

        Raises:
            CorruptError: a file is damaged; names it.
        """
        return sorted((each for name in self.files(queue) for each in self.read(name)), key=lambda each: (each.at, each.digest))

    def files(self, queue: str | None = None) -> list[str]:
        """The names of the files with decisions."""
        return [name for name in self._names(queue) if not name.endswith(f"/{_QUEUE}")]

    def read(self, name: str) -> tuple[Decision, ...]:
        """The decisions of a file; raises CorruptError, which names it, when it is damaged."""
        if name not in self._known:  # files never change
            document = self._document(name)
            if f"{json_digest(document)}.json" != name.rpartition("/")[2]:
                raise CorruptError(f"{self._files.where}/{name} is damaged: it has the decisions of another file")
            self._known[name] = tuple(self._parsed(Decision, each, name) for each in document)
        return self._known[name]

    def ask(self, queue: Queue) -> None:
        """Record durably what a review asks, in place of what it asked before. Raises RegistryError like `add`."""
        document = queue.model_dump(mode="json")
        self._write(f"{_folder(queue.name)}/{_QUEUE}", document, "what the review asks was")

    def queues(self) -> list[Queue]:
        """The queues of all reviews, by name. Raises CorruptError, which names the file, when one is damaged."""
        found = [self.read_queue(name) for name in self.queue_files()]
        return sorted(found, key=lambda each: each.name)

    def queue_files(self) -> list[str]:
        """The names of the files with what the reviews ask."""
        return [name for name in self._names(None) if name.endswith(f"/{_QUEUE}")]

    def read_queue(self, name: str) -> Queue:
        """The queue of a review, by its file. Raises CorruptError, which names the file, when it is damaged."""
        queue: Queue = self._parsed(Queue, self._document(name), name)
        if name != f"{_folder(queue.name)}/{_QUEUE}":
            raise CorruptError(f"{self._files.where}/{name} is damaged: it is the file of {queue.name}")
        return queue

    def queue(self, name: str) -> Queue | None:
        """The queue of a review; None if no run has reached it."""
        try:
            return self.read_queue(f"{_folder(name)}/{_QUEUE}")
        except FileNotFoundError:
            return None

    def sizes(self) -> list[int]:
        """The sizes of all files, in bytes."""
        return [entry.bytes for entry in self._files.listing(strict=False) if _is_ours(entry.name)]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _names(self, queue: str | None) -> list[str]:
        if not self._files.exists():
            return []
        folder = f"{_folder(queue)}/" if queue else ""
        listed: Iterable[str] = (entry.name for entry in self._files.listing(strict=False))
        return sorted(name for name in listed if name.startswith(folder) and _is_ours(name))

    def _document(self, name: str) -> Any:
        return parse_checked_json(self._files.read(name), f"{self._files.where}/{name}")

    def _parsed(self, kind: Any, document: Any, name: str) -> Any:
        try:
            return kind.model_validate(document)
        except ValidationError as error:
            raise CorruptError(f"{self._files.where}/{name} {unfit(error)}") from error

    def _write(self, name: str, document: Any, what: str) -> None:
        try:
            self._files.write(name, checked_json(document))
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            raise RegistryError(
                f"{self._files.where} cannot be written ({error.strerror}), so {what} not stored. Make the registry writable, "
                "or review in a copy of it and import the decisions here"
            ) from error


def _folder(queue: str) -> str:
    return hashlib.sha256(queue.encode()).hexdigest()[:16]


def _is_ours(name: str) -> bool:
    """Whether this is the name of a file of ours, and not of what a crash left behind."""
    folder, _, file = name.partition("/")
    return bool(folder) and "/" not in file and file.endswith(".json") and not file.startswith(".")
