"""The facts on every page of a version: what it is, what made it, and what was made from it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.page.sessions import Reader
from registry import Manifest
from registry.lineage.targets import Version, parse

_SHOWN = 200
"""Versions made from one that are listed."""


@dataclass(frozen=True)
class VersionFacts:
    """A version.

    Args:
        numbers: all versions of its name, oldest first.
        latest: the number that its name alone means; None if no run that made one has succeeded.
        children: versions that were made from it; at most 200.
    """

    manifest: Manifest
    numbers: tuple[int, ...]
    latest: int | None
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
    """The result of `_version_facts`, which stays the same as long as the catalog does not change."""
    state = reader.session.state
    if state is None:
        return _version_facts(reader, target)
    found: VersionFacts = reader.kept.facts.get(("version", target, state), lambda: _version_facts(reader, target))
    return found


def _version_facts(reader: Reader, target: str) -> VersionFacts:
    """A version, given as `NAME@V`, or as `NAME` for its latest, or the newest if none became the latest.

    Raises:
        UnknownVersionError: there is none.
    """
    session = reader.session
    asked = "select version from versions where name = ? order by version"
    name, number = parse(target)
    numbers = tuple(number for (number,) in session.ask(asked, [name]).rows)
    [latest] = session.ask("select max(latest_version) from datasets where name = ?", [name]).rows[0]
    if number is None and latest is None and numbers:
        number = numbers[-1]
    version = session.resolve(name if number is None else f"{name}@{number}")
    made = "select distinct child, child_version from lineage where parent = ? and parent_version = ? order by 1, 2 limit ?"
    children = session.ask(made, [*version, _SHOWN]).rows
    return VersionFacts(session.manifest(*version), numbers, latest, tuple(Version(*child) for child in children))
