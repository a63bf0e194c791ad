"""Garbage collection: removes versions that nothing refers to, objects that no version names, and what crashes left behind.

The order of removal leaves nothing half removed, whenever the process is killed: first the files that steps left, then the
versions (children before parents), then the objects that no version names any longer.

There are no races. Versions are removed while this process holds the registry's lock and nobody reads (`Catalog.reading`),
so a reader never loses a row. A process that relies on something existing touches it first: `Catalog.touch` for a version,
`ObjectStore.put_*` for an object. Everything younger than the oldest live run stays.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

from registry.catalog.manifest import Manifest
from registry.errors import CorruptError
from registry.registry import Registry
from registry.storage import fault_points
from registry.storage.files import LocalFiles
from registry.storage.lock import wait_for
from registry.storage.objects import Listed
from registry.upkeep.crash_files import crash_files

GRACE = dt.timedelta(hours=1)
"""Younger files are kept although nothing refers to them: planning stores the rows of sources without a run."""

_CLOCK_SKEW = dt.timedelta(minutes=1)
"""How far the clocks of machines and file systems may differ."""

_TURN_SECONDS, _POLL_SECONDS = 0.5, 0.005
"""How long to wait for readers while holding the registry's lock, and how often to look."""


class StepFiles(Protocol):
    """The files that steps keep outside of their versions, to resume from. Steps that differ only in their rows share them."""

    @property
    def step_keys(self) -> frozenset[str]:
        """The keys of the steps that may have been committed from them."""

    @property
    def unfinished(self) -> bool:
        """Whether there are some from which no step was committed."""

    @property
    def committed(self) -> bool:
        """Whether steps were committed from all of them, so that they are not needed even if no version is left.

        A crash just before such a commit looks the same. Then the step makes its rows again, with the answers in the journal.
        """

    @property
    def where(self) -> str:
        """Their folder, relative to the registry."""

    @property
    def bytes(self) -> int:
        """Their total size."""

    @property
    def checkpoint_bytes(self) -> int:
        """The size of the checkpoints among them."""

    @property
    def in_use(self) -> bool:
        """Whether a file is young, or a run is working with them. Such steps keep their files and their versions."""

    @property
    def objects(self) -> frozenset[str]:
        """The objects that they name."""

    def remove(self, *, run_is_live: bool) -> bool:
        """Remove them, unless a run has begun to work with them; returns whether they were removed."""


FindStepFiles = Callable[[float], Sequence[StepFiles]]
"""Lists the files of all steps. The argument is a time (seconds since 1970): what is younger counts as in use."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder in the registry that is not needed any more."""

    where: str
    what: str
    bytes: int


@dataclass(frozen=True)
class Garbage:
    """What is not needed any more.

    Args:
        versions: the newest first.
        objects: the objects that neither a version nor an unfinished step names.
        leftovers: files that finished steps and crashes left behind.
        paused: checkpoints of unfinished steps; they stay.
        kept: the number of versions that stay.
        young: objects that are not needed, and that stay because they are young.
        horizon: files younger than this stay.
        live_since: when the oldest live run began; None when no run is live.
    """

    versions: tuple[Manifest, ...]
    objects: tuple[Listed, ...]
    leftovers: tuple[Leftover, ...]
    paused: tuple[Leftover, ...]
    kept: int
    young: tuple[Listed, ...]
    horizon: dt.datetime
    live_since: dt.datetime | None

    @property
    def bytes(self) -> int:
        """Its total size."""
        return sum(each.bytes for each in self.objects) + sum(each.bytes for each in self.leftovers)


def find(registry: Registry, grace: dt.timedelta, step_files: FindStepFiles) -> Garbage:
    """Return what `collect` would remove now. Changes nothing.

    A version is kept when it is the latest or the newest of its name, pinned, younger than the horizon, being made again, or
    asked for in a review, or when a kept version was made from it. An object is kept when a kept version or an unfinished step
    names it, or when it is young. The horizon is the start of the oldest live run, and at least `grace` ago.

    Raises:
        CorruptError: a manifest or a run journal is damaged or missing, so it is unknown what is needed.
        LockedError: another process holds the registry's lock.
    """
    listed = list(registry.store.listing())
    with registry.catalog.exclusive():
        return _found(registry, listed, grace, step_files).garbage


def collect(registry: Registry, grace: dt.timedelta, step_files: FindStepFiles) -> Garbage:
    """Remove what `find` finds; return what was removed. When killed, it leaves whole versions, and more to collect.

    Raises:
        CorruptError: see `find`; nothing was removed.
        LockedError: another process holds the registry's lock, or reads; nothing was removed.
    """
    # Objects that are stored after this are not candidates; the age of the others is checked again before removal.
    listed = list(registry.store.listing())
    with _undisturbed(registry):
        garbage, finished, of_crashes = _found(registry, listed, grace, step_files)
        leftovers = [each for files, each in finished if _removed(files, garbage)]
        leftovers += [each for each in of_crashes if _unlinked(registry.root / each.where)]
        if garbage.versions:
            # Children first, so that the trace of every remaining version leads to remaining versions.
            registry.catalog.forget([manifest.version_id for manifest in garbage.versions])
        # From here on, a process that needs an object stores it again. In a folder, that is noticed in time.
        objects = _remove_remote(registry, garbage.objects) if registry.url else ()
    if not registry.url:
        objects = tuple(_remove_local(registry, garbage))
    return replace(garbage, leftovers=tuple(leftovers), objects=objects)


@contextmanager
def _undisturbed(registry: Registry) -> Iterator[None]:
    """Hold the registry's lock while nobody reads."""
    catalog = registry.catalog
    with ExitStack() as held:

        def taken() -> bool:
            held.enter_context(catalog.exclusive())
            until = time.monotonic() + _TURN_SECONDS
            while not (readers := catalog.readers.try_to_take()) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
            if readers:
                held.enter_context(readers)
            else:
                held.close()
            return readers is not None

        # Nobody can start to read while we hold the lock. Commits must not wait for long reads, so it is released in turns.
        wait_for(taken, f"the registry {registry.root} is being read", catalog.readers.holders, _TURN_SECONDS)
        yield


# -- needed ----------------------------------------------------------------------------------------------------------

_Ref = tuple[str, int]
"""A version by name and number."""


class _Found(NamedTuple):
    """Garbage, and its leftovers by origin: those of steps, each with its files, and those of crashes."""

    garbage: Garbage
    finished: Sequence[tuple[StepFiles, Leftover]]
    of_crashes: Sequence[Leftover]


def _found(registry: Registry, listed: Sequence[Listed], grace: dt.timedelta, step_files: FindStepFiles) -> _Found:
    live = registry.catalog.live_since()
    horizon = dt.datetime.now(dt.UTC) - grace
    if live:
        horizon = min(horizon, live - _CLOCK_SKEW)
    oldest = horizon.timestamp()
    steps = step_files(oldest)
    manifests, young = _manifests(registry, oldest)
    known = _known(registry)
    missing = known.versions - {manifest.version_id for manifest in manifests.values()}
    if missing or known.runs - {*registry.catalog.runs.run_ids()}:
        raise CorruptError("manifests or run journals are missing, so it is unknown what is needed")
    at_work = {key for step in steps if step.in_use for key in step.step_keys}
    young |= {ref for ref, manifest in manifests.items() if manifest.step_key in at_work}
    newest = dict(sorted(manifests))
    asked = {(ref.name, ref.version) for queue in registry.reviews.queues() for ref in queue.inputs}
    kept = _with_ancestors(manifests, {*newest.items(), *known.referred, *young, *asked})

    sizes = {each.sha256: each.bytes for each in listed}
    broken = {manifests[ref].step_key for ref in kept if not _is_whole(manifests[ref], sizes)}
    made = {manifest.step_key for manifest in manifests.values()}
    finished_steps = {step for step in steps if _is_finished(step, made, broken)}
    done = {step for step in steps if not step.in_use and (step in finished_steps or not _can_resume(step))}
    needed = {part.sha256 for ref in kept for part in manifests[ref].objects()}
    needed.update(chain.from_iterable(step.objects for step in steps if step not in done))
    loose = sorted((each for each in listed if each.sha256 not in needed), key=lambda each: each.name)
    # At a URL, it would not be noticed in time that a worker elsewhere stores an object again.
    old = {each for each in loose if each.modified <= oldest and not (live and registry.url)}
    unneeded = [manifest for ref, manifest in manifests.items() if ref not in kept]
    finished = [(step, _of_step(step, step in finished_steps)) for step in steps if step in done and (step.bytes or not live)]
    of_crashes = tuple(_of_crashes(registry, listed, oldest))
    garbage = Garbage(
        versions=tuple(sorted(unneeded, key=lambda manifest: manifest.created_at, reverse=True)),
        objects=tuple(each for each in loose if each in old),
        leftovers=(*(leftover for _, leftover in finished), *of_crashes),
        paused=tuple(_of_paused(step) for step in steps if step.checkpoint_bytes and step not in finished_steps),
        kept=len(kept),
        young=tuple(each for each in loose if each not in old),
        horizon=horizon,
        live_since=live,
    )
    return _Found(garbage, finished, of_crashes)


def _manifests(registry: Registry, oldest: float) -> tuple[dict[_Ref, Manifest], set[_Ref]]:
    """All versions, and which of them are young."""
    ages = {Path(each.name).stem: each.modified for each in registry.manifests.listing() if each.name.endswith(".json")}
    with ThreadPoolExecutor() as threads:
        found = dict(zip(ages, threads.map(registry.catalog.manifest, ages), strict=True))
    manifests = {(manifest.name, manifest.version): manifest for manifest in found.values()}
    if len(manifests) < len(found):
        raise CorruptError(f"several manifests in {registry.manifests.where} claim to be the same version")
    return manifests, {ref for ref, manifest in manifests.items() if ages[manifest.version_id] > oldest}


class _Known(NamedTuple):
    """The versions and runs in the catalog, and the versions that are pinned or the latest of their name."""

    versions: set[str]
    runs: set[str]
    referred: set[_Ref]


def _known(registry: Registry) -> _Known:
    with registry.catalog.snapshot() as tables:
        versions = tables.execute("select version_id from internal.versions").fetchall()
        runs = tables.execute("select run_id from internal.runs").fetchall()
        referred = tables.execute("select name, version from internal.refs union select name, version from internal.pins")
        return _Known({version_id for (version_id,) in versions}, {run_id for (run_id,) in runs}, set(referred.fetchall()))


def _with_ancestors(manifests: Mapping[_Ref, Manifest], roots: Iterable[_Ref]) -> set[_Ref]:
    """Versions, and everything that they were made from."""
    kept: set[_Ref] = set()
    waiting = [ref for ref in roots if ref in manifests]
    while waiting:
        ref = waiting.pop()
        if ref not in kept:
            kept.add(ref)
            parents = (*manifests[ref].inputs, *manifests[ref].models)
            waiting += [(each.name, each.version) for each in parents if (each.name, each.version) in manifests]
    return kept


def _is_whole(manifest: Manifest, sizes: Mapping[str | None, int]) -> bool:
    return all(sizes.get(part.sha256) == part.bytes for part in manifest.objects())


# -- leftovers -------------------------------------------------------------------------------------------------------


def _is_finished(step: StepFiles, made: set[str], broken: set[str]) -> bool:
    """Whether everything made from the files is or was in versions, which (unless `broken`) no longer need the files."""
    return not step.unfinished and not step.step_keys & broken and (step.committed or bool(step.step_keys & made))


def _can_resume(step: StepFiles) -> bool:
    return bool(step.objects or step.checkpoint_bytes)


def _of_step(step: StepFiles, finished: bool) -> Leftover:
    return Leftover(step.where, "of a finished step" if finished else "of a step with nothing to resume from", step.bytes)


def _of_paused(step: StepFiles) -> Leftover:
    return Leftover(step.where, "checkpoints of an unfinished step", step.checkpoint_bytes)


def _of_crashes(registry: Registry, listed: Iterable[Listed], oldest: float) -> Iterator[Leftover]:
    """Files that crashes left behind and, for objects at a URL, copies of removed objects."""
    found = dict(crash_files(registry.root))
    if registry.url:
        there = {each.name for each in listed}
        copies = LocalFiles(registry.store.root)
        found |= {copies.path(each.name): "a copy of a removed object" for each in copies.listing() if each.name not in there}
    for path, what in sorted(found.items()):
        if (about := _about(path)) and about.st_mtime <= oldest:
            yield Leftover(path.relative_to(registry.root).as_posix(), what, about.st_size)


def _about(path: Path) -> os.stat_result | None:
    """The status of the file itself, even if it is a link; None when it is missing."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


# -- removing ---------------------------------------------------------------------------------------------------------


def _removed(step: StepFiles, garbage: Garbage) -> bool:
    if not step.remove(run_is_live=garbage.live_since is not None):
        return False
    fault_points.point("leftover.removed")
    return True


def _unlinked(path: Path) -> bool:
    path.unlink(missing_ok=True)
    return True


def _remove_local(registry: Registry, garbage: Garbage) -> Iterator[Listed]:
    """Remove the objects that are still old."""
    for each in garbage.objects:
        if registry.store.remove_old(each.name, garbage.horizon.timestamp()):
            fault_points.point("object.removed")
            yield each


def _remove_remote(registry: Registry, objects: tuple[Listed, ...]) -> tuple[Listed, ...]:
    with ThreadPoolExecutor() as threads:
        list(threads.map(registry.store.remove, [each.name for each in objects]))
    return objects
