"""The catalog of versions and runs: commits, runs, pins, and the removal of versions."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from registry.catalog.derived_tables import DerivedTables
from registry.catalog.manifest import Draft, Event, Hit, Manifest, Pin, StepRun, UsedNumber
from registry.catalog.run_journal import sealed
from registry.catalog.write_ahead import Intent
from registry.counted import counted
from registry.errors import CorruptError
from registry.storage.files import Files
from registry.storage.lock import READ_ONLY
from registry.storage.objects import ObjectStore
from registry.storage.shared_lock import SharedLock


class Catalog(DerivedTables):
    """Versions and runs. Reading is in DerivedTables; changes are here.

    Args:
        root: the registry's folder on this machine.
        store: contains the objects of the versions.
        manifests: `<version_id>.json` each.
    """

    def __init__(self, root: Path, store: ObjectStore, manifests: Files) -> None:
        super().__init__(root, manifests)
        self.readers = SharedLock(root / "registry.readers", f"versions of the registry {root} are being removed")
        self._store = store

    # -- reading ------------------------------------------------------------------------------------------------

    def manifest(self, version_id: str) -> Manifest:
        """A version's manifest; raises CorruptError when it is damaged, FileNotFoundError when there is none."""
        return self.files.manifest(version_id)

    def reading(self) -> IO[bytes]:
        """Keep all versions from being removed until the returned file is closed. Raises LockedError."""
        # Garbage collection holds this lock while it waits for readers, so nobody starts to read meanwhile.
        with self._held(to_read=True):
            return self.readers.join()

    def touch(self, version_id: str) -> Manifest:
        """Give a version the current time, so that it is kept while any run that is live now lasts; returns its manifest."""
        self.files.touch(version_id)
        return self.manifest(version_id)

    def intact(self, manifest: Draft) -> bool:
        """Whether all of a version's objects exist with the size they were written with."""
        return not self._missing(manifest)

    # -- writing ------------------------------------------------------------------------------------------------

    def commit(self, drafts: Sequence[Draft], run_id: str, step: StepRun | None) -> list[Manifest]:
        """Make the outputs of a step visible, all at once. Drafts that are versions already keep their numbers.

        Args:
            drafts: the outputs of the step.
            step: the record of the step; None for sources. Without outputs, it is not recorded a second time.

        Raises:
            CorruptError: objects of a draft are missing. Nothing was changed.
            UnfitError: the catalog cannot store a value of the step or a draft. Nothing was changed.
        """
        with self._locked():
            asked = [draft.version_id for draft in drafts]
            query = "select version_id, version from versions where list_contains(?, version_id)"
            earlier = dict(self._query(query, [asked]))
            made = {version_id: self.touch(version_id) for version_id in earlier if self._is_whole(version_id)}
            fresh = [draft for draft in drafts if draft.version_id not in made]
            for draft in fresh:
                if missing := self._missing(draft):
                    raise CorruptError(
                        f"the registry lacks {counted(missing, 'object')} of {draft.name}, for example {missing[0]}. What is "
                        "missing was removed before the version was committed. Run again to restore it."
                    )
            numbers = self._highest_numbers(draft.name for draft in fresh)
            for draft in fresh:
                # When the manifest is damaged or objects are missing, the version keeps its number and gets the new objects.
                if draft.version_id not in earlier:
                    numbers[draft.name] += 1
                number = earlier.get(draft.version_id, numbers[draft.name])
                made[draft.version_id] = Manifest(**draft.model_dump(), version=number, run_id=run_id, created_at=_now())
            manifests = [made[draft.version_id] for draft in drafts]
            changed = {draft.version_id: made[draft.version_id] for draft in fresh}
            # A run that is interrupted during a commit records the step again, as one that made nothing.
            is_new = step is not None and (bool(drafts) or not self._is_recorded(run_id, step))
            events = self._step_events(run_id, [step] if step and is_new else [])
            lines = [sealed(event, manifests) for event in events]
            if events or changed:
                with self._adding([*changed.values()], events, replaced=[each for each in changed if each in earlier]):
                    for manifest in changed.values():
                        self.files.write(manifest)
                    for line in lines:
                        self.runs.append(run_id, line)
        return manifests

    def record_hits(self, run_id: str, hits: Sequence[Hit]) -> None:
        """Record steps of a run that used existing versions, in order, all at once.

        Raises:
            UnfitError: the catalog cannot store a value of one of them. Nothing was changed.
        """
        with self._locked():
            events = self._step_events(run_id, [hit.step for hit in hits])
            lines = b"".join(sealed(event, hit.versions) for event, hit in zip(events, hits, strict=True))
            with self._adding(events=events):
                self.runs.append(run_id, lines)

    def begin_run(self, pipeline: str, source: dict[str, Any], began: dt.datetime | None = None) -> str:
        """Record that a run started; the run is live while this process holds its lock.

        Args:
            began: when the run began to look up versions, if that was earlier.
        """
        at = began or _now()
        run_id = f"{at:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        event = Event(event="started", at=at, run_id=run_id, pipeline=pipeline, source=source)
        line = sealed(event)
        with self._locked():
            self._end_dead_runs()
            self.runs.claim(run_id)
            try:
                with self._adding(events=[event]):
                    self.runs.append(run_id, line)
            except BaseException:
                self.runs.release(run_id)
                raise
        return run_id

    def end_run(self, run_id: str, state: str, error: str | None = None, refs: dict[str, int] | None = None) -> None:
        """Record the end of a run; `refs` (name -> version) become the latest versions, all at once."""
        with self._locked():
            self._end([run_id], state, error, refs or {})
        self.runs.release(run_id)

    def mark_dead_runs(self) -> None:
        """Mark runs as `interrupted` whose process has died. Does nothing in a read-only registry."""
        try:
            with self._locked():
                self._end_dead_runs()
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise

    # -- keeping and forgetting ---------------------------------------------------------------------------------

    def pin(self, name: str, version: int) -> None:
        """Keep a version for good; raises KeyError when it does not exist."""
        with self._locked():
            if not self._query("select 1 from versions where name = ? and version = ?", [name, version]):
                raise KeyError(f"{name}@{version}")
            with self._changing(Intent(marks=True)):
                self.files.pins.write(Pin(name=name, version=version, pinned_at=_now()))

    def unpin(self, name: str, version: int) -> None:
        """Remove a pin; raises KeyError when there is none."""
        with self._locked():
            if not self._query("select 1 from pins where name = ? and version = ?", [name, version]):
                raise KeyError(f"{name}@{version} is not pinned")
            with self._changing(Intent(marks=True)):
                self.files.pins.remove([name, version])

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the registry's lock for a block. Meanwhile nobody else commits, starts to read, or starts or ends a run."""
        return self._held()

    def live_since(self) -> dt.datetime | None:
        """When the oldest live run began; None when no run is live."""
        with self._locked():
            running = self._query("select run_id, started_at from runs where state = 'running' order by started_at")
            began = next((began for run_id, began in running if self.runs.is_live(run_id)), None)
            return began.replace(tzinfo=dt.UTC) if began else None

    def forget(self, version_ids: Sequence[str]) -> None:
        """Remove versions, but not their objects. Their numbers are never used again."""
        with self._locked():
            removed = self._query(
                "select name, max(version) from versions where list_contains(?, version_id) group by name", [list(version_ids)]
            )
            highest = self._highest_numbers(name for name, _ in removed)
            with self._changing(Intent(versions=tuple(version_ids), marks=True)):
                for name, version in removed:
                    if version == highest[name]:
                        self.files.numbers.write(UsedNumber(name=name, version=version))
                for version_id in version_ids:
                    self.files.remove(version_id)

    # -- inside -------------------------------------------------------------------------------------------------

    def _is_whole(self, version_id: str) -> bool:
        try:
            return self.intact(self.manifest(version_id))
        except (CorruptError, FileNotFoundError):
            return False

    def _missing(self, version: Draft) -> list[str]:
        """The objects of a version that are missing, or do not have the size they were written with."""
        return [part.sha256 for part in version.objects() if not self._store.has(part.sha256, part.bytes)]

    def _highest_numbers(self, names: Iterable[str]) -> dict[str, int]:
        """The highest version number that each name ever had; 0 for a name that had none."""
        wanted = list(names)
        found = self._query(
            "select name, max(version) from (select name, version from versions union all select name, version from numbers) "
            "where list_contains(?, name) group by name",
            [wanted],
        )
        return dict.fromkeys(wanted, 0) | dict(found)

    def _end(self, run_ids: Sequence[str], state: str, error: str | None = None, refs: dict[str, int] | None = None) -> None:
        [(last,)] = self._query("select max(updated_at) from refs")
        # Clocks may stop or go back, but the later of two runs that move a reference must have the later time.
        at = max(_now(), last.replace(tzinfo=dt.UTC) + dt.timedelta(microseconds=1)) if last else _now()
        events = []
        for run_id in run_ids:
            fields = {"event": "ended", "at": at, "run_id": run_id, "pipeline": self.runs.pipeline(run_id)}
            events.append(Event.model_validate({**fields, "state": state, "error": error, "refs": refs or {}}))
        lines = {event.run_id: sealed(event) for event in events}
        with self._adding(events=events):
            for run_id, line in lines.items():
                self.runs.append(run_id, line)

    def _is_recorded(self, run_id: str, step: StepRun) -> bool:
        # The step is compared here: its name may be text that DuckDB does not take.
        recorded = self._query("select step, variant from step_runs where run_id = ?", [run_id])
        return (step.step, step.variant) in recorded

    def _step_events(self, run_id: str, steps: Sequence[StepRun]) -> list[Event]:
        if not steps:
            return []
        shared: dict[str, Any] = {"event": "step", "at": _now(), "run_id": run_id, "pipeline": self.runs.pipeline(run_id)}
        return [Event(**shared, step=step) for step in steps]

    def _end_dead_runs(self) -> None:
        running = self._query("select run_id from runs where state = 'running' order by run_id")
        dead = [run_id for (run_id,) in running if not self.runs.is_live(run_id)]
        # There is nothing to record about a run without a journal.
        lost = [run_id for run_id in dead if not self.runs.read(run_id)]
        if lost:
            self._update_tables(Intent(runs=tuple(lost)))
        if ended := [run_id for run_id in dead if run_id not in lost]:
            self._end(ended, "interrupted")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
