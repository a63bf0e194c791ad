"""Reasons of rejects by cause: reasons that differ only in a value, such as a text that is not a number, count as one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_VALUES = re.compile(r"'(?:[^']|'(?=\w))*'|\"[^\"]*\"|\d[\d,.]*")


def cause_of(reason: str) -> str:
    """A reason without quoted texts and numbers."""
    return _VALUES.sub("*", reason)


_OTHERS = " (and others with other values)"


def cause_of_listed(text: str) -> str:
    """The cause of a text that `by_cause` returns."""
    return cause_of(text.removesuffix(_OTHERS))


def by_cause(reasons: Iterable[str]) -> list[tuple[str, int]]:
    """Each cause by its first reason, with its count, the most frequent first; that others differ in a value is mentioned."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    differ: set[str] = set()
    for reason in reasons:
        cause = cause_of(reason)
        counts[cause] += 1
        if first.setdefault(cause, reason) != reason:
            differ.add(cause)
    return [(f"{first[cause]}{_OTHERS}" if cause in differ else first[cause], count) for cause, count in counts.most_common()]
