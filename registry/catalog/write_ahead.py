"""The write-ahead intent: what is about to change, recorded durably first: recovery after a crash starts from it."""

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
    """The files of record that a change touches.

    Args:
        versions: ids of versions whose manifests are written or removed.
        runs: ids of runs whose journals are written.
        marks: whether pins or used version numbers change.
        everything: whether the DuckDB file is rebuilt.
        unproven: those versions that exist only if a line of these journals names them, which is written last.
    """

    versions: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    marks: bool = False
    everything: bool = False
    unproven: tuple[str, ...] = ()


class IntentFile:
    """A file that is empty unless a change is in progress, or its process died during one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Intent | None:
        """The unfinished change; `everything` when the file cannot be read."""
        try:
            data = plain_files.read(self._path)
        except FileNotFoundError:
            return None
        if not data:
            return None
        try:
            found = parse_checked_json(data, str(self._path))
            versions = tuple(ids.version_id(each) for each in found["versions"])
            runs = tuple(ids.run_id(each) for each in found["runs"])
            unproven = tuple(ids.version_id(each) for each in found.get("unproven", ()))  # engines before 0.4 do not write it
            return Intent(versions, runs, bool(found["marks"]), bool(found["everything"]), unproven)
        except (CorruptError, TypeError, KeyError):
            return Intent(everything=True)

    def write(self, intent: Intent) -> None:
        """Make an intent durable. It is written in place, with one fsync; a truncated one reads as `everything`."""
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
        """Record that the change is finished. If power fails here, recovery repeats an idempotent step."""
        with plain_files.written(self._path) as file:
            file.truncate(0)
        fault_points.point("intent.cleared")
