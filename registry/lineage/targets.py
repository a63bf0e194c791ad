"""Targets, as users write them: `NAME@V`, or `NAME` for the latest version."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from registry.errors import UnknownVersionError

_TARGET = re.compile(r"(?P<name>[^@]+?)(?:@(?P<version>[0-9]{1,10}))?")
_LISTED = 5


class Version(NamedTuple):
    """A version by name and number."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


def parse(target: str) -> tuple[str, int | None]:
    """Name and number of a target; the number is None for the latest. A text that is not a target is all name."""
    match = _TARGET.fullmatch(target)
    if not match:
        return target, None
    return match["name"], int(match["version"]) if match["version"] else None


def resolve(
    target: str,
    numbers_of: Callable[[str], Sequence[int]],
    latest_of: Callable[[str], int | None],
    names: Callable[[], Sequence[str]],
) -> Version:
    """The version that a target means; raises UnknownVersionError, with advice, when there is none.

    Args:
        numbers_of: the version numbers of a name; empty for an unknown name.
        latest_of: the number of the latest version of a name.
        names: all names.
    """
    name, wanted = parse(target)
    numbers = sorted(numbers_of(name))
    if not numbers:
        known = names()
        close = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]!r}?" if close else f"It has {_listed(known)}."
        raise UnknownVersionError(f"the registry has no dataset, model, calibration or report named {name!r}. {hint}")
    chosen = latest_of(name) if wanted is None else wanted
    if chosen in numbers:
        return Version(name, chosen)
    if wanted is not None:
        raise UnknownVersionError(f"{name!r} has no version {wanted}; it has {', '.join(map(str, numbers))}.")
    why = "no run that made it has succeeded" if chosen is None else f"{name}@{chosen} is missing"
    versions = ", ".join(f"{name}@{number}" for number in numbers)
    raise UnknownVersionError(f"{name!r} has no latest version, because {why}. It has {versions}.")


def _listed(names: Sequence[str]) -> str:
    """Names for a message: the first few, and how many more there are."""
    shown = ", ".join(names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED:,} more" if len(names) > _LISTED else shown or "none yet"
