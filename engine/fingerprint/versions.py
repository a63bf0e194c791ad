"""Versions of installed packages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions

_VERSION = re.compile(r"^Version: *(\S+)[ \t]*$", re.MULTILINE)


@cache
def version_of(package: str) -> str:
    """The version of a distribution, or of the distribution that has a module of this name, after its name."""
    if own := installed_version(package):
        return own
    for name in _distributions().get(package, []):
        return f"{name} {_version(distribution(name))}"
    return "unversioned"


def installed_version(name: str) -> str | None:
    """The version of a distribution; None if it is not installed."""
    try:
        return _version(distribution(name))
    except PackageNotFoundError:
        return None


def _version(installed: Distribution) -> str:
    """As `Distribution.version`, which parses the whole metadata as a mail, with a README in it."""
    head = (installed.read_text("METADATA") or "").partition("\n\n")[0]
    found = _VERSION.findall(head)
    return str(found[0] if len(found) == 1 else installed.version)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
