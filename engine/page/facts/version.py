"""What every page of a version says: what it is, what made it, and what was made from it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.page.sessions import Reader
from registry import Manifest
from registry.lineage.walk import Version

_SHOWN = 200
"""Versions made from one that are listed."""


@dataclass(frozen=True)
class VersionFacts:
    """A version.

    Args:
        numbers: all versions of its name, oldest first.
        latest: the number that its name alone means.
        children: versions that were made from it; at most 200.
    """

    manifest: Manifest
    numbers: tuple[int, ...]
    latest: int
    children: tuple[Version, ...]

    @property
    def target(self) -> str:
        """`NAME@V`."""
        return str(self.manifest.ref)

    @property
    def before(self) -> int | None:
        """The version of its name before it."""
        return max((number for number in self.numbers if number < self.manifest.version), default=None)


def version_facts(reader: Reader, target: str) -> VersionFacts:
    """A version, given as `NAME@V` or `NAME`; raises QueryError if there is none."""
    session = reader.session
    name, version = session.resolve(target)
    numbers = session.ask("select version from versions where name = ? order by version", [name]).rows
    made = "select distinct child, child_version from lineage where parent = ? and parent_version = ? order by 1, 2 limit ?"
    children = session.ask(made, [name, version, _SHOWN]).rows
    return VersionFacts(
        session.manifest(name, version),
        tuple(number for (number,) in numbers),
        session.resolve(name).version,
        tuple(Version(*child) for child in children),
    )
