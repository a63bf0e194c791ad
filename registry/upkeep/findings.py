"""What a look at a registry found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Args:
        severity: `error`: something is damaged or lost; `note`: something is left over, or behind, and nothing is lost.
        where: a file or folder, below the registry.
        what: is the matter with it.
        advice: what to do about it.
        versions: `NAME@V` of the versions that it hits.
    """

    severity: Literal["error", "note"]
    where: str
    what: str
    advice: str
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tally:
    """How many there are, and their size in bytes."""

    count: int
    bytes: int

    @classmethod
    def of(cls, sizes: Iterable[int]) -> Tally:
        """Of things of these sizes."""
        sizes = list(sizes)
        return cls(len(sizes), sum(sizes))


@dataclass(frozen=True)
class Report:
    """What was looked at, by kind, and what was found."""

    looked_at: Mapping[str, Tally] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def __add__(self, other: Report) -> Report:
        return Report({**self.looked_at, **other.looked_at}, self.findings + other.findings)

    @property
    def errors(self) -> list[Finding]:
        """What is damaged or lost."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def notes(self) -> list[Finding]:
        """What is left over, or behind."""
        return [finding for finding in self.findings if finding.severity == "note"]
