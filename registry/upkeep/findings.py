"""The result of a check of a registry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

MISSING = "is missing"


@dataclass(frozen=True)
class Finding:
    """A problem, or something worth knowing.

    Args:
        severity: `error`: something is damaged or lost; `note`: something is left over or out of date, and nothing is lost.
        where: a file or folder, relative to the registry.
        what: the problem, as a predicate: "is damaged".
        advice: what the user can do about it.
        versions: `NAME@V` of the versions that it damages.
        remedy: the operation that the advice refers to: rebuilding the catalog, or garbage collection.
    """

    severity: Literal["error", "note"]
    where: str
    what: str
    advice: str
    versions: tuple[str, ...] = ()
    remedy: Literal["rebuild", "collect"] | None = None


@dataclass(frozen=True)
class FileCount:
    """A number of files, and their total size in bytes."""

    count: int
    bytes: int

    @classmethod
    def of(cls, sizes: Iterable[int]) -> FileCount:
        """The count of files with these sizes."""
        sizes = list(sizes)
        return cls(len(sizes), sum(sizes))


@dataclass(frozen=True)
class CheckResult:
    """The number of checked things, by kind, and the findings."""

    checked: Mapping[str, FileCount] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def __add__(self, other: CheckResult) -> CheckResult:
        return CheckResult({**self.checked, **other.checked}, self.findings + other.findings)

    @property
    def errors(self) -> list[Finding]:
        """Findings of damage or loss."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def notes(self) -> list[Finding]:
        """All other findings."""
        return [finding for finding in self.findings if finding.severity == "note"]


def reason_of(error: Exception, where: str) -> str:
    """The text of an error about the file `where`."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    text = str(error).rpartition(where)[2].lstrip(", ") or str(error)
    return re.sub(r"^(line \d+), is damaged", r"is damaged in \1", text)
