"""What is about to change in a registry, made durable before it does: who comes after a crash knows where to look."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from registry.errors import CorruptError
from registry.storage import fault_points, ids, plain_files
from registry.storage.checked_json import checked_json, parse_checked_json
from registry.storage.files import fsync_folder


@dataclass(frozen=True)
class Intent:
    """The truths that a change touches.

    Args:
        versions: ids of versions whose manifests are written or removed.
        runs: ids of runs whose journals are written.
        marks: whether pins or given numbers change.
        everything: the DuckDB file is made again.
    """

    versions: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    marks: bool = False
    everything: bool = False


class IntentFile:
    """A file that is empty unless a change is under way, or was when its process died."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Intent | None:
        """The change that did not come to its end; everything, when what is there cannot be read."""
        try:
            data = plain_files.read(self._path)
        except FileNotFoundError:
            return None
        if not data:
            return None
        try:
            said = parse_checked_json(data, str(self._path))
            versions = tuple(ids.version_id(each) for each in said["versions"])
            runs = tuple(ids.run_id(each) for each in said["runs"])
            return Intent(versions, runs, bool(said["marks"]), bool(said["everything"]))
        except (CorruptError, TypeError, KeyError):
            return Intent(everything=True)

    def write(self, intent: Intent) -> None:
        """Make an intent durable. In place, which takes one fsync: one that was cut off reads as `everything`."""
        fresh, data = not self._path.exists(), checked_json(asdict(intent))
        with plain_files.written(self._path) as file:
            file.truncate(0)
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(0)
                raise
        if fresh:
            fsync_folder(self._path.parent)
        fault_points.point("intent.written")

    def clear(self) -> None:
        """The change came to its end. Should a power cut undo this, the same is shown once more."""
        with plain_files.written(self._path) as file:
            file.truncate(0)
        fault_points.point("intent.cleared")
