"""Checks the objects: that those which versions need are there, and have the bytes that their names say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from registry.catalog.manifest import DataObject, Manifest, SideObject
from registry.counted import counted
from registry.errors import CorruptError
from registry.storage.objects import Listed, ObjectStore
from registry.upkeep.findings import MISSING, CheckResult, FileCount, Finding, reason_of
from registry.upkeep.leftovers import unneeded_objects


class Need(NamedTuple):
    """A version that needs an object, its use, and how it should be."""

    manifest: Manifest
    what: str
    part: DataObject | SideObject


def check_objects(
    store: ObjectStore, manifests: Sequence[Manifest], named: frozenset[str], *, deep: bool, all_known: bool
) -> CheckResult:
    """Check the objects. Unneeded ones are reported only if all manifests are known."""
    listed = list(store.listing(strict=False))
    there = {each.sha256: each for each in listed if each.sha256}
    needs: defaultdict[str, list[Need]] = defaultdict(list)
    for manifest in manifests:
        for need in _needs(manifest):
            needs[need.part.sha256].append(need)
    bad = dict(_missing(needs, there))
    if deep:
        bad |= _damaged(store, [each for sha256, each in there.items() if sha256 not in bad])
    findings = [_of_object(sha256, what, needs.get(sha256, ()), sha256 in named) for sha256, what in bad.items()]
    if deep:
        from registry.upkeep.row_proof import disproof  # brings pandas

        known = {(manifest.name, manifest.version): manifest.rows for manifest in manifests}
        for manifest in manifests:
            if not any(need.part.sha256 in bad for need in _needs(manifest)):
                findings += [_of_version(manifest, what) for what in disproof(store, manifest, known)]
    loose = [each for sha256, each in there.items() if all_known and sha256 not in needs and sha256 not in named]
    strays = [each for each in listed if each.sha256 is None]
    return CheckResult(
        {"objects": FileCount.of(each.bytes for each in there.values())}, (*findings, *unneeded_objects(loose, strays))
    )


def _needs(manifest: Manifest) -> Iterator[Need]:
    return (Need(manifest, use, part) for use, part in manifest.objects_by_use())


def _missing(needs: Mapping[str, Sequence[Need]], there: Mapping[str, Listed]) -> Iterator[tuple[str, str]]:
    for sha256, wanted in needs.items():
        size, listed = wanted[0].part.bytes, there.get(sha256)
        if listed is None:
            yield sha256, MISSING
        elif listed.bytes != size:
            yield sha256, f"has {counted(listed.bytes, 'byte')} instead of {size:,}"


def _damaged(store: ObjectStore, objects: Sequence[Listed]) -> Iterator[tuple[str, str]]:
    """Objects whose bytes do not have the SHA-256 in their name."""

    def verify(each: Listed) -> str:
        assert each.sha256
        try:
            store.verify(each.sha256)
        except OSError as error:
            return reason_of(error, each.sha256)
        except CorruptError:
            # An object that was removed meanwhile was not needed.
            return "is damaged: its bytes do not have this SHA-256" if store.has(each.sha256, each.bytes) else ""
        return ""

    with ThreadPoolExecutor() as threads:
        for each, what in zip(objects, threads.map(verify, objects), strict=True):
            if what and each.sha256:
                yield each.sha256, what


def _of_object(sha256: str, what: str, needs: Sequence[Need], named: bool) -> Finding:
    where = f"objects/{sha256[:2]}/{sha256}"
    if not needs:
        advice = "its partition runs again when it is needed" if named else "no version needs it"
        return Finding("error", where, what, f"delete it: {advice}")
    uses = ", ".join(sorted({need.what for need in needs}))
    pipelines = " and ".join(sorted({need.manifest.pipeline for need in needs}))
    first = "" if what == MISSING else "delete it and "
    advice = f"{first}run {pipelines} again: that restores it, and the versions keep their numbers"
    return Finding("error", where, f"({uses}) {what}", advice, tuple(sorted({str(need.manifest.ref) for need in needs})))


def _of_version(manifest: Manifest, what: str) -> Finding:
    advice = f"its objects were written wrong, not damaged later: report it, and force {manifest.pipeline} to run again"
    return Finding("error", f"manifests/{manifest.version_id}.json", what, advice, (str(manifest.ref),))
