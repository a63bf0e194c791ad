"""Removes what nobody needs any more: versions that nothing refers to, objects of none, rests of steps and crashes.

It goes in an order that leaves nothing half gone whenever it is killed: what a step left beside its versions, then the
versions, what was made before what it was made from, then objects that no version names any more.

Nobody is raced. Versions are removed while the registry's lock is held and nobody reads (`Catalog.reading`), so a reader
never loses a row. Who relies on something that is there makes it young first: `Catalog.touch` a version,
`ObjectStore.put_*` an object. What is younger than the oldest run that lives stays.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from registry.catalog.manifest import Manifest
from registry.errors import CorruptError
from registry.registry import Registry
from registry.storage import fault_points, plain_files
from registry.storage.checked_json import read_checked_json
from registry.storage.files import LocalFiles
from registry.storage.lock import wait_for
from registry.storage.objects import Listed
from registry.storage.shared_lock import SharedLock

GRACE = dt.timedelta(hours=1)
"""What is younger is kept though nobody seems to need it: `engine plan` stores rows of sources without a run."""

_CLOCKS = dt.timedelta(minutes=1)
"""By so much, clocks of machines and of file systems may differ."""

_TURN_SECONDS, _POLL_SECONDS = 0.5, 0.005
"""How long to wait for readers with the registry's lock held, and then without."""

_RESTS = {
    ".*.tmp": "a file that was being written",
    "manifests/.*.tmp": "a file that was being written",
    "runs/.*.tmp": "a file that was being written",
    "pins/.*.tmp": "a file that was being written",
    "numbers/.*.tmp": "a file that was being written",
    "*.building": "a catalog that was being made",
    "*.damaged-*": "a damaged catalog; another was made in its place",
}


@dataclass(frozen=True)
class Leftover:
    """A file or folder below the registry that is of no use any more."""

    where: str
    what: str
    bytes: int


@dataclass(frozen=True)
class Garbage:
    """What nobody needs.

    Args:
        versions: the newest first.
        objects: those that no version, and no step under way, names.
        leftovers: what finished steps and crashes left.
        paused: what steps have kept that are not finished, to go on from; it stays.
        kept: the number of versions that stay.
        young: objects that nobody needs, and that stay because they are young.
        horizon: the moment since which nothing goes.
        live_since: when the oldest run began that lives; None when there is none.
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
        """The room that it takes."""
        return sum(each.bytes for each in self.objects) + sum(each.bytes for each in self.leftovers)


def find(registry: Registry, grace: dt.timedelta = GRACE) -> Garbage:
    """What `collect` would remove now. Nothing is changed.

    Versions are kept when they are the latest or the newest of their name, or pinned, or younger than the horizon, or are
    being made again, and when a kept one was made from them. Objects are kept that a kept version names, or a receipt of a
    step without versions, and young ones. The horizon is the moment when the oldest run began that lives, and at least
    `grace` ago.

    Raises:
        CorruptError: a manifest is damaged, or missing, or a run journal is, so that it is not known what is needed.
        LockedError: another process holds the registry's lock.
    """
    listed = list(registry.store.listing())
    with registry.catalog.alone():
        return _found(registry, listed, grace)


def collect(registry: Registry, grace: dt.timedelta = GRACE) -> Garbage:
    """Remove what `find` finds; gives what was removed. Killed at any moment, it leaves whole versions, and more to collect.

    Raises:
        CorruptError: see `find`; nothing was removed.
        LockedError: another process holds the registry's lock, or reads; nothing was removed.
    """
    # What is stored after this is no candidate; the age of what is found again is looked at once more.
    listed = list(registry.store.listing())
    with _undisturbed(registry):
        found = _found(registry, listed, grace)
        leftovers = tuple(each for each in found.leftovers if _removed(registry.root / each.where, found.live_since))
        if found.versions:
            # Children first: the trace of a version that is still there leads to versions that are, too.
            registry.catalog.forget([manifest.version_id for manifest in found.versions])
        # From here on, who comes to need an object stores it again. In a folder, that is seen in time.
        gone = _removed_far(registry, found.objects) if registry.url else ()
    if not registry.url:
        gone = tuple(_removed_near(registry, found))
    return replace(found, leftovers=leftovers, objects=gone)


@contextmanager
def _undisturbed(registry: Registry) -> Iterator[None]:
    """Hold the registry's lock while nobody reads."""
    catalog = registry.catalog
    with ExitStack() as held:

        def taken() -> bool:
            held.enter_context(catalog.alone())
            until = time.monotonic() + _TURN_SECONDS
            while not (readers := catalog.readers.try_to_take()) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
            if readers:
                held.enter_context(readers)
            else:
                held.close()
            return readers is not None

        # While we hold the lock, nobody begins to read. Commits are not to wait for long readings, so it is let go in turns.
        wait_for(taken, f"the registry {registry.root} is being read", catalog.readers.holders, _TURN_SECONDS)
        yield


# -- what is needed ---------------------------------------------------------------------------------------------------

_Ref = tuple[str, int]
"""A version by name and number."""


def _found(registry: Registry, listed: Sequence[Listed], grace: dt.timedelta) -> Garbage:
    live = registry.catalog.live_since()
    horizon = dt.datetime.now(dt.UTC) - grace
    if live:
        horizon = min(horizon, live - _CLOCKS)
    oldest = horizon.timestamp()
    steps = [_Step(folder, oldest) for folder in plain_files.folders(registry.receipts)]
    manifests, young = _manifests(registry, oldest)
    told = _told(registry)
    lost = told.versions - {manifest.version_id for manifest in manifests.values()}
    if lost or told.runs - {*registry.catalog.runs.run_ids()}:
        raise CorruptError("files of versions or runs are missing, so it is not known what is needed: see `engine fsck`")
    at_work = {step.key for step in steps if step.young}
    young |= {ref for ref, manifest in manifests.items() if manifest.step_key in at_work}
    newest = dict(sorted(manifests))
    kept = _with_ancestors(manifests, {*newest.items(), *told.referred, *young})

    sizes = {each.sha256: each.bytes for each in listed}
    broken = {manifests[ref].step_key for ref in kept if not _whole(manifests[ref], sizes)}
    made = {manifest.step_key for manifest in manifests.values()} - broken
    done = [step for step in steps if not step.young and (step.key in made or not step.is_begun)]
    needed = {part.sha256 for ref in kept for part in _parts(manifests[ref])}
    needed.update(chain.from_iterable(step.needs for step in steps if step not in done))
    loose = sorted((each for each in listed if each.sha256 not in needed), key=lambda each: each.name)
    # At a URL, it cannot be seen in time that a worker elsewhere stores an object again.
    old = {each for each in loose if each.modified <= oldest and not (live and registry.url)}
    gone = [manifest for ref, manifest in manifests.items() if ref not in kept]
    return Garbage(
        versions=tuple(sorted(gone, key=lambda manifest: manifest.created_at, reverse=True)),
        objects=tuple(each for each in loose if each in old),
        leftovers=(
            *(_of_step(step, step.key in made) for step in done if step.bytes or not live),
            *_rests(registry, listed, oldest),
        ),
        paused=tuple(_of_paused(step) for step in steps if step.checkpoints and step.key not in made),
        kept=len(kept),
        young=tuple(each for each in loose if each not in old),
        horizon=horizon,
        live_since=live,
    )


def _manifests(registry: Registry, oldest: float) -> tuple[dict[_Ref, Manifest], set[_Ref]]:
    """All versions, and which of them are young."""
    ages = {Path(each.name).stem: each.modified for each in registry.manifests.listing() if each.name.endswith(".json")}
    with ThreadPoolExecutor() as threads:
        found = dict(zip(ages, threads.map(registry.catalog.manifest, ages), strict=True))
    manifests = {(manifest.name, manifest.version): manifest for manifest in found.values()}
    if len(manifests) < len(found):
        raise CorruptError(f"several manifests in {registry.manifests.where} are of the same version: see `engine fsck`")
    return manifests, {ref for ref, manifest in manifests.items() if ages[manifest.version_id] > oldest}


class _Told(NamedTuple):
    """What the catalog says there is, and which versions are pinned or the latest of their name."""

    versions: set[str]
    runs: set[str]
    referred: set[_Ref]


def _told(registry: Registry) -> _Told:
    with registry.catalog.snapshot() as tables:
        versions = tables.execute("select version_id from internal.versions").fetchall()
        runs = tables.execute("select run_id from internal.runs").fetchall()
        referred = tables.execute("select name, version from internal.refs union select name, version from internal.pins")
        return _Told({version_id for (version_id,) in versions}, {run_id for (run_id,) in runs}, set(referred.fetchall()))


def _with_ancestors(manifests: Mapping[_Ref, Manifest], roots: Iterable[_Ref]) -> set[_Ref]:
    """Versions, and all that they were made from."""
    kept: set[_Ref] = set()
    waiting = [ref for ref in roots if ref in manifests]
    while waiting:
        ref = waiting.pop()
        if ref not in kept:
            kept.add(ref)
            parents = (*manifests[ref].inputs, *manifests[ref].models)
            waiting += [(each.name, each.version) for each in parents if (each.name, each.version) in manifests]
    return kept


def _parts(manifest: Manifest) -> Iterator[Any]:
    yield from (manifest.key_object, *manifest.data, *manifest.side, *manifest.attachments)


def _whole(manifest: Manifest, sizes: Mapping[str | None, int]) -> bool:
    return all(sizes.get(part.sha256) == part.bytes for part in _parts(manifest))


# -- what is left over ------------------------------------------------------------------------------------------------


class _Step:
    """What a step left beside its versions, in `receipts/<step key>`: receipts of finished parts, and marks.

    Args:
        oldest: since when it is young.
    """

    def __init__(self, folder: Path, oldest: float) -> None:
        self.key = folder.name
        self._folder = folder
        files = [about for path in _beside_lock(folder) for about in _files(path)]
        self.bytes = sum(about.st_size for about in files)
        self.checkpoints = sum(about.st_size for each in plain_files.folders(folder) for about in plain_files.files(each))
        # Who makes a step takes its lock first, and then looks for its versions, for which we would have to be done.
        self.young = any(about.st_mtime > oldest for about in files) or _busy(folder)

    @property
    def is_begun(self) -> bool:
        """Whether it left something to go on from."""
        return bool(self.needs or self.checkpoints)

    @cached_property
    def needs(self) -> frozenset[str]:
        """The objects that its receipts name."""
        return frozenset(sha256 for path in self._folder.glob("*.json") for sha256 in _named(path))


def _of_step(step: _Step, finished: bool) -> Leftover:
    what = "of a step that is finished" if finished else "of a step that has nothing to go on from"
    return Leftover(f"receipts/{step.key}", what, step.bytes)


def _of_paused(step: _Step) -> Leftover:
    return Leftover(f"receipts/{step.key}", "checkpoints of a step that is not finished", step.checkpoints)


def _beside_lock(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != "lock"]


def _files(path: Path) -> Iterator[os.stat_result]:
    """A file, or the files in a folder."""
    if plain_files.kind(path) == "a folder":
        yield from plain_files.files(path)
    elif found := _about(path):
        yield found


def _step_lock(folder: Path) -> Any:
    """The lock of a step that nobody makes, held until it is closed; None when somebody makes it."""
    return SharedLock(folder / "lock", f"the step {folder.name} is being made").try_to_take()


def _busy(folder: Path) -> bool:
    if not plain_files.kind(folder / "lock"):
        return False
    if lock := _step_lock(folder):
        lock.close()
    return lock is None


def _about(path: Path) -> os.stat_result | None:
    """Of the file itself, when it is a link. None: it has gone meanwhile."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _named(path: Path) -> Iterator[str]:
    """The objects that a receipt names; none, when it is damaged: its part of the step runs again."""
    waiting: list[Any] = []
    with suppress(CorruptError, FileNotFoundError):
        waiting.append(read_checked_json(path))
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(sha256 := value.get("sha256"), str):
                yield sha256
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _rests(registry: Registry, listed: Iterable[Listed], oldest: float) -> Iterator[Leftover]:
    """What crashes left, and, of objects at a URL that are gone, copies."""
    found: dict[Path, str] = {}
    for pattern, what in _RESTS.items():
        folder = plain_files.folder((registry.root / pattern).parent)
        found |= dict.fromkeys(folder.glob(Path(pattern).name), what)
    if registry.url:
        there = {each.name for each in listed}
        copies = LocalFiles(registry.store.root)
        found |= {copies.path(each.name): "a copy of what is gone" for each in copies.listing() if each.name not in there}
    for path, what in sorted(found.items()):
        if (about := _about(path)) and about.st_mtime <= oldest:
            yield Leftover(path.relative_to(registry.root).as_posix(), what, about.st_size)


# -- removing ---------------------------------------------------------------------------------------------------------


def _removed(path: Path, live: dt.datetime | None) -> bool:
    if plain_files.kind(path) != "a folder":
        path.unlink(missing_ok=True)
        return True
    lock = _step_lock(path)
    if lock is None:
        return False
    with lock:
        for each in _beside_lock(path):
            if plain_files.kind(each) == "a folder":
                shutil.rmtree(each)
            else:
                each.unlink()
        if not live:
            # A run that lives may be about to take the lock.
            shutil.rmtree(path)
    fault_points.point("leftover.removed")
    return True


def _removed_near(registry: Registry, found: Garbage) -> Iterator[Listed]:
    """Remove the objects that are old still."""
    for each in found.objects:
        if registry.store.remove_old(each.name, found.horizon.timestamp()):
            fault_points.point("object.removed")
            yield each


def _removed_far(registry: Registry, objects: tuple[Listed, ...]) -> tuple[Listed, ...]:
    with ThreadPoolExecutor() as threads:
        list(threads.map(registry.store.remove, [each.name for each in objects]))
    return objects
