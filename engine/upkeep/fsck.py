"""Checks a whole registry: versions and catalog, receipts of finished partitions, and the journal of answers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import ValidationError

from engine.jobs.messages import WHOLE, Receipt
from engine.llm.journal.integrity import damages
from engine.llm.journal.wal import first_damaged
from registry import CorruptError, Registry
from registry.storage import plain_files
from registry.storage.checked_json import read_checked_json
from registry.upkeep import fsck as of_registry
from registry.upkeep.fsck import CheckResult, FileCount, Finding

_RECEIPT = re.compile(rf"([0-9a-f]{{64}}|{WHOLE}|\d+-\d+)\.json")  # the last: of versions before 0.4


def fsck(registry: Registry, *, deep: bool = False) -> CheckResult:
    """Check everything in a registry; only reads. See registry.upkeep.fsck.

    Raises:
        LockedError: another process held the registry's lock for too long.
    """
    receipts, report = _receipts(registry)
    named = {part.sha256 for receipt in receipts for part in receipt.objects()}
    return of_registry.fsck(registry, deep=deep, named=named) + report + _journal(registry, deep)


def _receipts(registry: Registry) -> tuple[list[Receipt], CheckResult]:
    found, findings, sizes = [], [], []
    unread = incomplete = 0
    for path in (path for folder in plain_files.folders(registry.receipts) for path in sorted(folder.glob("*.json"))):
        if not _RECEIPT.fullmatch(path.name):
            continue
        try:
            sizes.append(path.stat().st_size)
            receipt = Receipt.model_validate(read_checked_json(path))
        except ValidationError:
            unread += 1
        except (CorruptError, OSError) as error:
            what = "is damaged: its checksum does not match" if isinstance(error, CorruptError) else f"cannot be read: {error}"
            advice = "delete it: no version is affected; if its step runs again, this partition is recomputed"
            findings.append(Finding("error", path.relative_to(registry.root).as_posix(), what, advice))
        else:
            found.append(receipt)
            incomplete += not all(registry.store.has(part.sha256, part.bytes) for part in receipt.objects())
    findings += _unusable(unread, "were written by another version of the engine")
    findings += _unusable(incomplete, "name objects that are missing")
    return found, CheckResult({"receipts": FileCount.of(sizes)}, tuple(findings))


def _unusable(count: int, what: str) -> Iterator[Finding]:
    if count:
        yield Finding(
            "note", "receipts", f"{count:,} {what}", "nothing to do: if their steps run again, these partitions are recomputed"
        )


def _journal(registry: Registry, deep: bool) -> CheckResult:
    file = registry.journal / "answers.sqlite"
    if not file.exists():
        return CheckResult()
    where = file.relative_to(registry.root).as_posix()
    findings = [Finding("error", where, what, advice) for what, advice in damages(file, deep=deep)]
    log = file.with_name(f"{file.name}-wal")
    # While a worker writes, a read may return a mix of old and new bytes; then the second read differs.
    if deep and (frame := first_damaged(log)) is not None and frame == first_damaged(log):
        what = f"is damaged at frame {frame:,}, or its process died while it wrote there"
        advice = "nothing can be done: the answers after it are lost; the models will be called again for those that are needed"
        findings.append(Finding("error", f"{where}-wal", what, advice))
    sizes = [path.stat().st_size for path in (file, log) if path.exists()]
    return CheckResult({"journal of answers": FileCount.of(sizes)}, tuple(findings))
