"""The journals of runs: `runs/<run_id>.ndjson`, one event a line, each line an OpenLineage RunEvent.

Our own event is in the run facet `engine`, with a digest of the whole line. A crash may have cut off the last line; every
other line is whole or damaged.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic import ValidationError

from registry.catalog import openlineage
from registry.catalog.manifest import Event, Manifest, unfit
from registry.errors import CorruptError, UnfitError
from registry.storage import fault_points, ids, plain_files
from registry.storage.checked_json import canonical_json, json_digest
from registry.storage.files import durable_write, fsync_folder

_log = logging.getLogger("registry")


class Unfit(NamedTuple):
    """An undamaged line of a step that the catalog cannot store: its number, and why."""

    line: int
    reason: str


class ScannedJournal(NamedTuple):
    """The events of a run, and the lines that are left out of them."""

    events: list[Event]
    unfit: list[Unfit]


class RunLog:
    """The folder of journals, and of the locks that show which runs are live."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claimed: dict[str, FileLock] = {}

    def run_ids(self) -> list[str]:
        """The runs that have a journal."""
        return sorted(path.stem for path in plain_files.folder(self.folder).glob("*.ndjson"))

    def path(self, run_id: str) -> Path:
        """The path of a run's journal, whether it exists or not; raises CorruptError when this is not the id of a run."""
        return plain_files.folder(self.folder) / f"{ids.run_id(run_id)}.ndjson"

    def append(self, run_id: str, lines: bytes) -> None:
        """Append lines made by `sealed`, durably; on failure, the journal stays as it was."""
        path = self.path(run_id)
        fresh = not plain_files.kind(path)
        if fresh and not self.folder.exists():
            self.folder.mkdir(parents=True)
            fsync_folder(self.folder.parent)
        _mend(path)
        with plain_files.written(path) as journal:
            kept = journal.seek(0, os.SEEK_END)
            try:
                while lines:
                    lines = lines[journal.write(lines) :]
                os.fsync(journal.fileno())
            except OSError:
                journal.truncate(kept)
                raise
        if fresh:
            fsync_folder(self.folder)
        fault_points.point("journal.appended")

    def read(self, run_id: str) -> list[Event]:
        """A run's events; empty when there is no journal. Raises CorruptError, which names file and line.

        Lines of steps that the tables cannot store are left out, with a warning: engines before 0.3 could write them.
        """
        events, unfit = self.scan(run_id)
        for line in unfit:
            _log.warning("%s, line %d, %s. The line is left out.", self.path(run_id), line.line, line.reason)
        return events

    def scan(self, run_id: str) -> ScannedJournal:
        """A run's events, and the lines that the tables cannot store. Raises CorruptError like `read`."""
        path = self.path(run_id)
        found = ScannedJournal([], [])
        for number, document in enumerate(self._documents(run_id), 1):
            found_event = document["run"]["facets"]["engine"].get("event")
            try:
                event = Event.model_validate(found_event)
            except ValidationError as error:
                if not isinstance(found_event, dict) or found_event.get("event") != "step":
                    # The other events say which versions are the latest: leaving one out would change that.
                    raise CorruptError(f"{path}, line {number}, {unfit(error)}") from error
                found.unfit.append(Unfit(number, unfit(error)))
                continue
            if event.run_id != run_id:
                raise CorruptError(f"{path}, line {number}, is damaged: it belongs to the run {event.run_id!r}")
            found.events.append(event)
        return found

    def outputs(self, run_id: str) -> list[tuple[str, int]]:
        """(name, version) of what the steps of a run made or reused, in order. Raises CorruptError like `read`."""
        return list(dict.fromkeys(each for made in self.outputs_by_step(run_id).values() for each in made))

    def outputs_by_step(self, run_id: str) -> dict[str, list[tuple[str, int]]]:
        """The same by step, after its variant; a step without outputs has an empty list. Raises CorruptError like `read`."""
        found: dict[str, list[tuple[str, int]]] = {}
        for document in self._documents(run_id):
            event = document["run"]["facets"]["engine"].get("event") or {}
            if event.get("event") == "step":
                step = event.get("step") or {}
                full = "/".join(filter(None, (step.get("variant"), step.get("step", ""))))
                made = ((each["name"], each["facets"]["version"]["datasetVersion"]) for each in document["outputs"])
                found[full] = [(name, int(number)) for name, number in made]
        return found

    def pipeline(self, run_id: str) -> str:
        """The pipeline of a run, from its first event; raises CorruptError when there is none."""
        path = self.path(run_id)
        try:
            with plain_files.opened(path) as journal:
                first = journal.readline()
        except FileNotFoundError:
            first = b""
        if document := _unended(first):
            try:
                return Event.model_validate(document["run"]["facets"]["engine"].get("event")).pipeline
            except ValidationError as error:
                raise CorruptError(f"{path}, line 1, {unfit(error)}") from error
        raise CorruptError(f"{path} is missing, or its first line is damaged, so the pipeline of this run is unknown")

    def claim(self, run_id: str) -> None:
        """Mark a run as live, until this process ends or releases it."""
        plain_files.folder(self.folder).mkdir(parents=True, exist_ok=True)
        lock = self._lock(run_id)
        lock.acquire()
        self._claimed[run_id] = lock
        fault_points.point("run.claimed")

    def release(self, run_id: str) -> None:
        """End the claim: the run is over."""
        lock = self._claimed.pop(run_id)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        fault_points.point("run.released")

    def is_live(self, run_id: str) -> bool:
        """Whether the process of a run is alive."""
        if run_id in self._claimed:
            return True
        lock = self._lock(run_id)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        return False

    def seems_live(self, run_id: str) -> bool:
        """The same without writing anything, so it also works in a registry that cannot be written."""
        try:
            with plain_files.opened(Path(self._lock(run_id).lock_file)) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:  # it is held, or the file system has no locks
            return True
        return False

    def _documents(self, run_id: str) -> list[dict[str, Any]]:
        path = self.path(run_id)
        try:
            *whole, last = plain_files.read(path).split(b"\n")
        except FileNotFoundError:
            return []
        documents = [_opened(text, path, number) for number, text in enumerate(whole, 1)]
        unended = _unended(last)
        return [*documents, unended] if unended else documents

    def _lock(self, run_id: str) -> FileLock:
        return FileLock(plain_files.folder(self.folder) / f"{ids.run_id(run_id)}.lock", thread_local=False)


def sealed(event: Event, manifests: Sequence[Manifest] = ()) -> bytes:
    """An event as a line of a journal.

    Args:
        manifests: the versions that a step made or reused: OpenLineage's inputs and outputs.

    Raises:
        UnfitError: it has text that is not Unicode.
    """
    try:
        document = openlineage.line(event, manifests)
        ours = event.model_dump(mode="json", exclude_defaults=True)
        facet = {"_producer": openlineage.PRODUCER, "_schemaURL": openlineage.FACET_SCHEMA, "event": ours}
        document["run"]["facets"]["engine"] = facet
        facet["sha256"] = json_digest(document)
        return canonical_json(document) + b"\n"
    except UnicodeEncodeError as error:
        raise UnfitError(f"the journal of run {event.run_id} cannot store this: {error}") from error


def _opened(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(line)
        if _intact(document):
            return document
    except (ValueError, RecursionError):
        pass  # not even JSON: damaged all the same
    raise CorruptError(f"{path}, line {number}, is damaged: its checksum does not match")


def _unended(rest: bytes) -> dict[str, Any] | None:
    """The line after the last newline: its newline is damaged, or its process died while writing, and then it is ignored."""
    try:
        document, _ = json.JSONDecoder().raw_decode(rest.decode(errors="replace"))
        return document if _intact(document) else None
    except (ValueError, RecursionError):
        return None


def _mend(path: Path) -> None:
    """Make a journal end with a newline, so that a line can be appended."""
    if not plain_files.kind(path):
        return
    with plain_files.opened(path) as journal:
        if not journal.seek(0, os.SEEK_END):
            return
        journal.seek(-1, os.SEEK_END)
        if journal.read() == b"\n":
            return
    whole, newline, rest = plain_files.read(path).rpartition(b"\n")
    unended = _unended(rest)
    durable_write(path, whole + newline + (canonical_json(unended) + b"\n" if unended else b""))


def _intact(document: Any) -> bool:
    """Whether a line contains what was written."""
    try:
        facet = document["run"]["facets"]["engine"]
        unsealed = {name: value for name, value in facet.items() if name != "sha256"}
        facets = document["run"]["facets"] | {"engine": unsealed}
        return bool(facet["sha256"] == json_digest(document | {"run": document["run"] | {"facets": facets}}))
    except (KeyError, TypeError, AttributeError):
        return False
