"""Checks that a registry contains what was written to it; reports damage, the versions it affects, and what to do.

Only reads: damaged files stay where they are. Rows are checked in registry.upkeep.row_proof.
"""

from __future__ import annotations

from collections.abc import Collection

from registry.registry import Registry
from registry.storage.lock import RegistryLock
from registry.upkeep.catalog_tables import LACKS_ONE, check_catalog
from registry.upkeep.findings import MISSING, CheckResult, FileCount, Finding
from registry.upkeep.leftovers import foreign_files, left_by_crashes
from registry.upkeep.object_files import check_objects
from registry.upkeep.small_files import check_reviews, read_files

__all__ = ["CheckResult", "FileCount", "Finding", "fsck"]


def fsck(registry: Registry, *, deep: bool = False, named: Collection[str] = ()) -> CheckResult:
    """Check manifests, run journals, pins, objects and the catalog.

    Commits wait while the small files are read and compared with the catalog. While objects are read, commits continue; only
    garbage collection waits.

    Args:
        deep: read every byte of every object, and compare rows with content ids. Otherwise, check presence and size.
        named: objects that something other than versions needs.

    Raises:
        LockedError: another process has held the registry's lock for too long.
    """
    with registry.catalog.reading():
        with RegistryLock(registry.root).held(to_read=True):
            files, report = read_files(registry)
            report += check_catalog(registry, files)
        lost = any(finding.what in (MISSING, LACKS_ONE) for finding in report.errors)
        known = not (files.unread or lost)
        report += check_objects(registry.store, files.manifests, frozenset(named), deep=deep, all_known=known)
        return report + check_reviews(registry) + foreign_files(registry.root) + left_by_crashes(registry.root)
